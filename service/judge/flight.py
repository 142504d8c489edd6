"""One upstream call for all who ask the same question at the same time.

In this process the first one starts a task and the others wait for it; the task ends early only
when nobody waits any more. Across replicas the task asks the store for the right to ask:

* granted: it is the leader. It renews its lease while it asks, then hands the outcome, good or
  bad, to all followers in one step. A leader that gives up lets go of the lease at once; one that
  dies leaves it to run out.
* held: it follows, and takes over when the leader is gone.
* away: the store cannot say. It asks on its own: better twice than not at all.

A failure of the upstream reaches everybody who waited, so a broken upstream is asked once, not
once by each of them in turn. A failure that is personal to the leader (its budget is spent) is
not shared with those who pay from elsewhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from time import monotonic
from typing import Any, Final, Literal
from uuid import uuid4

import msgspec

from service.judge.cache import Cache
from service.judge.outcome import Failed, Landed
from service.judge.stats import JudgeStats
from service.stores import Leases, Store

Payer = tuple[str, str]


_CLOSING: Final = Failed(details="the service is shutting down", kind="closing")
Ask = Callable[[], Awaitable[Landed]]


class _Flight:
    """A question being asked in this process."""

    __slots__ = ("payer", "task", "waiters")

    def __init__(self, task: asyncio.Task[Landed], payer: Payer) -> None:
        self.task = task
        self.payer = payer
        self.waiters = 0


class Flights:
    """All questions being asked now.

    Args:
        store: Shared by the replicas.
        cache: Looked into first, filled afterwards; encodes what followers get.
        stats: Where parts are counted.
        lease_s: Seconds after which a silent leader counts as dead.
        patience_s: Longest that a task follows leaders, in seconds.
        clock: Monotonic seconds.
    """

    def __init__(  # noqa: PLR0913 - collaborators are parameters
        self,
        store: Store,
        cache: Cache,
        stats: JudgeStats,
        *,
        lease_s: float,
        patience_s: float,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """Start with nothing in the air."""
        self._store = store
        self._cache = cache
        self._stats = stats
        self._lease_s = lease_s
        self._leases = Leases(store, lease_s=lease_s)
        self._patience_s = patience_s
        self._clock = clock
        self._flights: dict[str, _Flight] = {}
        self._background: set[asyncio.Task[Any]] = set()
        self._closed = False

    async def run(
        self, key: str, payer: Payer, ask: Ask, *, mode: Literal["shared", "refresh"]
    ) -> Landed:
        """Return the outcome of the question ``key``, asking at most once for all who wait.

        Args:
            key: Digest of the question.
            payer: Who would pay: personal failures are shared among equals only.
            ask: Asks the upstream; never raises for the upstream's reasons.
            mode: ``shared``: look first, one call for all replicas. ``refresh``: ask, one call for
                this process, and store.
        """
        name = f"{mode}:{key}"
        while not self._closed:
            flight = self._flights.get(name)
            mine = flight is None
            if flight is None:
                work = self._shared(key, ask) if mode == "shared" else self._refresh(key, ask)
                flight = self._flights[name] = _Flight(asyncio.create_task(work), payer)
                flight.task.add_done_callback(partial(self._landed, name))
            landed = await self._wait(name, flight)
            if landed is None:
                continue
            if mine:
                return landed
            personal = isinstance(landed.outcome, Failed) and landed.outcome.personal
            if personal and payer != flight.payer:
                continue
            self._stats.flights["joined"] += 1
            return Landed(outcome=landed.outcome, part="joined")
        return Landed(outcome=_CLOSING, part="joined")

    async def close(self) -> None:
        """End what is in the air, let go of all leases, and wait briefly for that to be known."""
        self._closed = True
        tasks = [flight.task for flight in self._flights.values()]
        for task in tasks:
            task.cancel()
        await self._leases.close()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._background:
            await asyncio.wait(self._background, timeout=1.0)

    async def _wait(self, name: str, flight: _Flight) -> Landed | None:
        """Return how the flight landed; None when it was called off before this one joined."""
        flight.waiters += 1
        try:
            return await asyncio.shield(flight.task)
        except asyncio.CancelledError:
            me = asyncio.current_task()
            if flight.task.cancelled() and me is not None and not me.cancelling():
                return None
            raise
        finally:
            flight.waiters -= 1
            if flight.waiters == 0 and not flight.task.done():
                self._stats.flights["abandoned"] += 1
                self._flights.pop(name, None)
                flight.task.cancel()

    def _landed(self, name: str, task: asyncio.Task[Landed]) -> None:
        flight = self._flights.get(name)
        if flight is not None and flight.task is task:
            del self._flights[name]
        if not task.cancelled():
            task.exception()  # taken note of even when nobody waits any more

    async def _refresh(self, key: str, ask: Ask) -> Landed:
        landed = await ask()
        value = self._cache.encode(key, landed.outcome)
        self._cache.remember(key, landed.outcome, len(value))
        self._spawn(self._cache.put(key, landed.outcome))
        return landed

    async def _shared(self, key: str, ask: Ask) -> Landed:
        found = await self._cache.look(key)
        if found is not None:
            return Landed(outcome=found, part="hit_store")
        token = uuid4().hex
        ends_at = self._clock() + self._patience_s
        behind = False
        while True:
            claim = await self._store.claim(key, token, lease_s=self._lease_s)
            if claim.state == "granted":
                self._stats.flights["taken_over" if behind else "leader"] += 1
                return await self._lead(key, token, ask)
            if claim.state == "found":
                outcome = self._cache.decode(key, claim.value)
                if outcome is not None:
                    self._cache.remember(key, outcome, len(claim.value))
                    return Landed(outcome=outcome, part="followed" if behind else "hit_store")
            left = ends_at - self._clock()
            if claim.state != "held" or left <= 0:
                break
            behind = True
            value = await self._store.follow(key, claim.owner, wait_s=left)
            outcome = None if value is None else self._cache.decode(key, value)
            if value is not None and outcome is not None:
                self._stats.flights["followed"] += 1
                self._cache.remember(key, outcome, len(value))
                return Landed(outcome=outcome, part="followed")
        self._stats.flights["alone"] += 1
        landed = await self._refresh(key, ask)
        return msgspec.structs.replace(landed, part="alone")

    async def _lead(self, key: str, token: str, ask: Ask) -> Landed:
        self._leases.keep(key, token)
        try:
            landed = await ask()
        except BaseException:
            self._spawn(self._store.release(key, token))
            raise
        finally:
            self._leases.drop(key)
        outcome = landed.outcome
        if isinstance(outcome, Failed) and outcome.personal:
            self._spawn(self._store.release(key, token))
            return landed
        value = self._cache.encode(key, outcome)
        self._cache.remember(key, outcome, len(value))
        self._stats.cache["stored"] += outcome.cacheable
        ttl_s = self._cache.ttl_s if outcome.cacheable else 0.0
        self._spawn(self._store.finish(key, token, value, ttl_s=ttl_s))
        return landed

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Tell the store without making the answer wait for it."""
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
