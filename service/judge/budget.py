"""Budgets: dollars a day for a key, a grader, or everything, counted before they are spent.

A call sets aside what it will probably cost, in every budget that applies or in none, and replaces
that by what it did cost. Concurrent calls therefore never pass a limit together by more than their
estimates were wrong. What a process set aside and never settled, because it died, comes back after
the call's deadline.

When Redis is away, `BudgetConfig.when_store_away` decides: ``local`` counts what this process has
spent today against the whole limit, ``allow`` lets calls pass uncounted, ``refuse`` lets none pass.
What a process has spent itself it also holds against the limit while Redis answers: a Redis that
was restarted or emptied has forgotten the day.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from time import time
from typing import Annotated, Literal
from uuid import uuid4

import msgspec

from service.judge.context import JudgeContext
from service.judge.outcome import Failed
from service.judge.stats import JudgeStats
from service.stores import NANO, MemoryStore, Reservation, Reserved, Store

Scope = Literal["key", "grader", "total"]


class Budget(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Dollars that may be spent in one UTC day.

    Attributes:
        per: Whose day it is: a key's, a grader's (``name@version``), or everybody's.
        name: Which key or grader; ``*`` gives each of them this budget unless it has its own.
            A grader may be named without its version; then all versions share the budget.
        dollars_per_day: The limit.
    """

    per: Scope
    name: str = "*"
    dollars_per_day: Annotated[float, msgspec.Meta(ge=0)]


class BudgetConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All budgets.

    Attributes:
        budgets: Every budget; none means no limit.
        when_store_away: What happens when the store cannot count.

    Raises:
        ValueError: Two budgets are of the same key, grader or total, or a total has a name.
    """

    budgets: tuple[Budget, ...] = ()
    when_store_away: Literal["local", "allow", "refuse"] = "local"

    def __post_init__(self) -> None:
        """Refuse what cannot be meant: one of two limits would silently not hold."""
        for per, name in (owners := [(budget.per, budget.name) for budget in self.budgets]):
            if per == "total" and name != "*":
                raise ValueError(f"a total budget has no name, but one is named {name!r}")
            if owners.count((per, name)) > 1:
                raise ValueError(f"two budgets per {per} are named {name!r}")


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """How one budget stands today.

    Attributes:
        per: Whose it is.
        name: Which key's or grader's; empty for everybody's and for ad hoc graders.
        limit: Dollars that may be spent.
        spent: Dollars spent; None when the store cannot say.
    """

    per: Scope
    name: str
    limit: float
    spent: float | None


class Budgets:
    """Counts money in a store.

    Args:
        config: The budgets.
        store: Shared by the replicas.
        stats: Where refusals are counted.
        wall: Seconds since the epoch: decides which day it is.
    """

    def __init__(
        self,
        config: BudgetConfig,
        store: Store,
        stats: JudgeStats,
        *,
        wall: Callable[[], float] = time,
    ) -> None:
        """Start a local account beside the shared one."""
        self._config = config
        self._store = store
        self._stats = stats
        self._wall = wall
        self._local = store if isinstance(store, MemoryStore) else MemoryStore()
        # Limits of the budgets of a name, and of all others that were asked for.
        self._limits: dict[tuple[Scope, str], float] = {
            (budget.per, "" if budget.per == "total" else budget.name): budget.dollars_per_day
            for budget in config.budgets
            if budget.name != "*" or budget.per == "total"
        }

    async def reserve(
        self, context: JudgeContext, nanodollars: int, *, hold_s: float
    ) -> Reservation | Failed | None:
        """Return the reservation, None when nothing is counted, or why the call may not be made.

        Args:
            context: Who pays.
            nanodollars: What the call will probably cost.
            hold_s: Seconds after which an unsettled reservation is given back.
        """
        counters = self._counters(context)
        if not counters:
            return None
        reservation = Reservation(
            id=uuid4().hex, counters=counters, amount=nanodollars, hold_s=hold_s
        )
        reserved = await self._store.reserve(reservation)
        if reserved.state == "away":
            if self._config.when_store_away == "allow":
                return None
            if self._config.when_store_away == "refuse":
                self._stats.refused["budget_store_away"] += 1
                return Failed(
                    code="budget_exceeded",
                    details="budgets cannot be counted now, and the policy is to refuse",
                    kind="budget_store_away",
                    retry_after_s=5.0,
                    personal=True,
                )
            reserved = await self._local.reserve(reservation)
        elif self._local is not self._store and reserved.state == "granted":
            reserved = await self._local.reserve(reservation)
            if reserved.state == "spent":  # Redis has forgotten
                await self._store.settle(reservation, spent=0)
        if reserved.state == "spent":
            self._stats.refused["budget"] += 1
            return self._spent(reservation, reserved)
        return reservation

    async def settle(self, reservation: Reservation, *, spent: int) -> None:
        """Replace the reservation by ``spent`` nanodollars."""
        await self._store.settle(reservation, spent=spent)
        if self._local is not self._store:
            await self._local.settle(reservation, spent=spent)

    async def today(self) -> list[Standing]:
        """Return how every budget of a name stands, and every other that was asked for."""
        limits = dict(self._limits)
        spent = await self._store.spent([self._counter(*budget) for budget in limits])
        return [
            Standing(per=per, name=name, limit=limit, spent=None if nano is None else nano / NANO)
            for ((per, name), limit), nano in zip(limits.items(), spent, strict=True)
        ]

    def _counter(self, per: Scope, name: str) -> str:
        """Return the store's name for today's counter of a budget."""
        return f"{datetime.fromtimestamp(self._wall(), UTC).date().isoformat()}:{per}:{name}"

    def _counters(self, context: JudgeContext) -> tuple[tuple[str, int], ...]:
        if not self._config.budgets:
            return ()
        candidates: dict[Scope, tuple[str, ...]] = {
            "key": (context.api_key,),
            "grader": (context.grader, context.grader.partition("@")[0]),
            "total": ("",),
        }
        counters = []
        for per, names in candidates.items():
            budgets = {b.name: b.dollars_per_day for b in self._config.budgets if b.per == per}
            own = next((name for name in names if name in budgets), None)
            limit = budgets.get(own) if own is not None else budgets.get("*")
            if limit is not None:
                name = names[0] if own is None else own
                self._limits[per, name] = limit
                counters.append((self._counter(per, name), round(limit * NANO)))
        return tuple(counters)

    def _spent(self, reservation: Reservation, reserved: Reserved) -> Failed:
        _, per, _ = reserved.counter.split(":", 2)
        limit = dict(reservation.counters)[reserved.counter]
        left = max(0, limit - reserved.taken)
        now = datetime.fromtimestamp(self._wall(), UTC)
        midnight = datetime(now.year, now.month, now.day, tzinfo=UTC) + timedelta(days=1)
        return Failed(
            code="budget_exceeded",
            details=f"judge budget {'in total' if per == 'total' else f'of this {per}'}, "
            f"{_dollars(limit)} a day: {_dollars(left)} left, this call may cost "
            f"{_dollars(reservation.amount)}; renewed 00:00 UTC",
            kind=f"budget_{per}",
            retry_after_s=(midnight - now).total_seconds(),
            personal=True,
        )


def _dollars(nanodollars: int) -> str:
    """Return an amount as people write it, exact, without zeros at its end."""
    return "$" + f"{nanodollars / NANO:.9f}".rstrip("0").rstrip(".")
