"""Asking an upstream on somebody's account: money set aside, the call, the bill.

Whatever the upstream does comes back as an outcome; only cancellation passes through.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random
from time import monotonic, time
from typing import Final

from service.judge.budget import Budgets, Standing
from service.judge.client import CallFailedError, ListedModel, Upstreams
from service.judge.config import JudgeConfig
from service.judge.context import JudgeContext
from service.judge.lane import Lane
from service.judge.outcome import Answer, Failed, FailureCode, Landed, Vectors
from service.judge.question import Question
from service.judge.routes import Route, Routes, Target
from service.judge.stats import JudgeStats, RouteState
from service.stores import Reservation, Store

_CODES: Final[dict[str, FailureCode]] = {"queue_full": "overloaded"}


class Asker:
    """The upstreams, with a lane to each and the budgets over all.

    Args:
        config: Retries, deadline, budgets.
        routes: The upstreams.
        store: Where money is counted.
        stats: Where everything is counted.
        clock: Monotonic seconds.
        wall: Seconds since the epoch.
        random: Source of jitter.
    """

    def __init__(  # noqa: PLR0913 - collaborators are parameters
        self,
        config: JudgeConfig,
        routes: Routes,
        store: Store,
        stats: JudgeStats,
        *,
        clock: Callable[[], float] = monotonic,
        wall: Callable[[], float] = time,
        random: Random | None = None,
    ) -> None:
        """Prepare a lane to each route; nothing connects before the first call."""
        self._deadline_s = config.deadline_s
        self._routes = routes
        self._stats = stats
        self._clock = clock
        self._budgets = Budgets(config.budget, store, stats, wall=wall)
        self._upstreams = Upstreams(wall=wall)
        self._lanes = {
            route.name: Lane(
                route, config.retry, stats, share=config.share, clock=clock, random=random
            )
            for route in routes.routes
        }
        self._settling: set[asyncio.Task[None]] = set()

    @property
    def states(self) -> tuple[RouteState, ...]:
        """How every route is doing now."""
        return tuple(lane.state for lane in self._lanes.values())

    async def ask(self, question: Question, context: JudgeContext) -> Landed:
        """Return what the upstream says, paid for by ``context``."""
        route = question.target.route
        cost = 0 if route.price is None else route.price.nanodollars(question.expected)
        reserved = await self._budgets.reserve(context, cost, hold_s=self._deadline_s)
        if isinstance(reserved, Failed):
            return Landed(outcome=reserved, part="leader")
        spent = 0
        try:
            landed = await self._send(question)
            spent = landed.nanodollars
        finally:
            if reserved is not None:
                self._settle(reserved, spent)
        outcome = landed.outcome
        if not isinstance(outcome, Failed):
            account = context.api_key, context.grader
            self._stats.paid(account, outcome.model, outcome.usage, spent)
            self._stats.unpriced[route.name] += route.price is None
        return landed

    async def spent_today(self, context: JudgeContext) -> dict[str, float | None]:
        """Return dollars spent today by budget that applies to ``context``."""
        return await self._budgets.spent_today(context)

    async def budgets_today(self) -> list[Standing]:
        """Return how every budget that was asked for stands."""
        return await self._budgets.today()

    async def models(self) -> dict[str, list[ListedModel] | str]:
        """Return, by route, the models its upstream lists, or one sentence why it does not."""
        found: dict[str, list[ListedModel] | str] = {}
        for route in self._routes.routes:
            try:
                found[route.name] = await self._upstreams.models(self._any_target(route))
            except CallFailedError as error:
                found[route.name] = error.details
        return found

    async def warm(self) -> None:
        """Import the client library and make all clients."""
        await self._upstreams.warm(map(self._any_target, self._routes.routes))

    async def close(self) -> None:
        """Settle what is open, then close every connection."""
        if self._settling:
            await asyncio.wait(self._settling, timeout=1.0)
        await self._upstreams.close()

    async def _send(self, question: Question) -> Landed:
        route = question.target.route
        lane = self._lanes[route.name]
        content = question.content

        async def once() -> Answer | Vectors:
            raw = await self._upstreams.post(question.target, question.path, content)
            return question.read(raw)

        expected = question.expected.total_tokens
        began = self._clock()
        try:
            await self._upstreams.ready(question.target)
            began = self._clock()
            outcome, attempts = await lane.call(
                once, tokens=expected, ends_at=began + self._deadline_s
            )
        except CallFailedError as error:
            if error.kind in {"queue_full", "rate_limit", "circuit_open"}:
                self._stats.refused[error.kind] += 1
            return Landed(
                outcome=_failure(route, error),
                part="leader",
                attempts=error.attempts,
                seconds=self._clock() - began,
            )
        lane.learned(expected=expected, used=outcome.usage.total_tokens)
        return Landed(
            outcome=outcome,
            part="leader",
            attempts=attempts,
            nanodollars=0 if route.price is None else route.price.nanodollars(outcome.usage),
            seconds=self._clock() - began,
        )

    def _any_target(self, route: Route) -> Target:
        key = self._routes.api_keys.get(route.name)
        return Target(route=route, api_key=key, model="", asked_model="")

    def _settle(self, reservation: Reservation, spent: int) -> None:
        """Settle without making the answer wait, even when the call was cancelled."""
        task = asyncio.create_task(self._budgets.settle(reservation, spent=spent))
        self._settling.add(task)
        task.add_done_callback(self._settling.discard)


def _failure(route: Route, error: CallFailedError) -> Failed:
    tries = f" after {error.attempts} attempts" if error.attempts > 1 else ""
    return Failed(
        code=_CODES.get(error.kind, "unavailable"),
        details=f"judge route {route.name!r}: {error.details}{tries}",
        kind=error.kind,
        retryable=error.retryable,
        retry_after_s=error.retry_after_s,
    )
