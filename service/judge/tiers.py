"""Where an outcome may come from, nearest first, on the terms of the request.

This process's memory; the flight that is asking already; the store; another replica that is
asking; the upstream. Recording: the recording before all that. In replay: the recording, then the
cache, then nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

import msgspec

from service.judge.cache import Cache
from service.judge.config import JudgeConfig
from service.judge.context import JudgeContext
from service.judge.flight import Ask, Flights
from service.judge.outcome import Failed, Landed, Outcome
from service.judge.recording import Recording
from service.judge.stats import JudgeStats
from service.stores import Store


class Tiers:
    """All tiers of one process.

    Args:
        config: Bounds, lease, mode and recording.
        store: Shared by the replicas, or this process's.
        stats: Where questions are counted by where they ended.
        clock: Monotonic seconds.

    Raises:
        RecordingError: ``config.recording`` cannot be used.
        ValueError: ``config.mode`` is ``record`` and there is no ``config.recording``.
    """

    def __init__(
        self,
        config: JudgeConfig,
        store: Store,
        stats: JudgeStats,
        *,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """Open the recording, if there is one."""
        if config.mode == "record" and config.recording is None:
            raise ValueError("judge mode 'record' needs the path of a recording")
        self._replays = config.mode == "replay"
        self._count = stats.cache
        self._cache = Cache(
            store,
            stats,
            ttl_s=config.cache_ttl_s,
            near_ttl_s=config.near_ttl_s,
            near_entries=config.near_entries,
            near_bytes=config.near_bytes,
            clock=clock,
        )
        self._flights = Flights(
            store,
            self._cache,
            stats,
            lease_s=config.lease_s,
            patience_s=config.deadline_s,
            clock=clock,
        )
        self._recording: Recording | None = None
        if config.recording is not None and config.mode != "live":
            self._recording = Recording(config.recording, mode=config.mode)

    def at_hand(self, key: str, context: JudgeContext) -> Landed | None:
        """Return the outcome of ``key`` if nothing has to be waited for or recorded."""
        if context.cache != "read-write" or self._replays or self._recording is not None:
            return None
        near = self._cache.near(key)
        if near is None:
            return None
        self._count["hit_process"] += 1
        return Landed(outcome=near, part="hit_process")

    async def find(self, key: str, context: JudgeContext, ask: Ask) -> Landed:
        """Return the outcome of the question ``key``; ``ask`` is the last resort."""
        recorded = self._recording.find(key) if self._recording else None
        if recorded is not None:
            self._count["hit_store"] += 1
            return Landed(outcome=recorded, part="hit_store")
        if self._replays:
            landed = await self._replay(key)
        elif context.cache == "read-write":
            landed = await self._read_write(key, context, ask)
        else:
            self._count[context.cache] += 1
            landed = (
                await ask()
                if context.cache == "off"
                else await self._flights.run(key, _payer(context), ask, mode="refresh")
            )
        if self._recording is not None:
            outcome = self._recording.record(key, landed.outcome)
            landed = msgspec.structs.replace(landed, outcome=outcome)
        return landed

    async def close(self) -> None:
        """End what is in the air and close the recording."""
        await self._flights.close()
        if self._recording is not None:
            self._recording.close()

    async def _read_write(self, key: str, context: JudgeContext, ask: Ask) -> Landed:
        near = self._cache.near(key)
        if near is not None:
            self._count["hit_process"] += 1
            return Landed(outcome=near, part="hit_process")
        landed = await self._flights.run(key, _payer(context), ask, mode="shared")
        self._count["hit_store" if landed.part == "hit_store" else "miss"] += 1
        return landed

    async def _replay(self, key: str) -> Landed:
        outcome: Outcome | None = self._cache.near(key) or await self._cache.look(key)
        self._count["miss" if outcome is None else "hit_store"] += 1
        if outcome is None:
            outcome = Failed(
                code="missing_recording",
                details="neither the cache nor the recording has this question",
                kind="missing_recording",
                retryable=False,
            )
        return Landed(outcome=outcome, part="hit_store")


def _payer(context: JudgeContext) -> tuple[str, str]:
    return context.api_key, context.grader
