"""Replies that were paid for: a small tier in this process, then the store.

A stored value names the format and the question it answers. A value that does not (another
program's, half a write, an older format) counts as garbage and as a miss, never as a reply.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from time import monotonic
from typing import Final

import msgspec

from service.judge.key import FORMAT
from service.judge.outcome import Failed, Outcome
from service.judge.stats import JudgeStats
from service.stores import Store


class _Stored(msgspec.Struct, frozen=True, array_like=True):
    format: int
    key: str
    outcome: Outcome


_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(_Stored)


class Cache:
    """Two tiers of outcomes by digest.

    Args:
        store: The second tier.
        stats: Where garbage is counted.
        ttl_s: Seconds an outcome is kept in the store.
        near_ttl_s: Seconds it is kept in this process.
        near_entries: Most outcomes kept in this process.
        near_bytes: Most bytes of them, as encoded.
        clock: Monotonic seconds.
    """

    def __init__(  # noqa: PLR0913 - bounds
        self,
        store: Store,
        stats: JudgeStats,
        *,
        ttl_s: float,
        near_ttl_s: float,
        near_entries: int,
        near_bytes: int,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """Start with an empty first tier."""
        self.ttl_s = ttl_s
        self._store = store
        self._stats = stats
        self._near_ttl_s = min(near_ttl_s, ttl_s)
        self._near_entries = near_entries
        self._near_bytes = near_bytes
        self._clock = clock
        self._near: OrderedDict[str, tuple[Outcome, float, int]] = OrderedDict()
        self._bytes = 0

    def near(self, key: str) -> Outcome | None:
        """Return what this process remembers."""
        found = self._near.get(key)
        if found is None:
            return None
        if found[1] <= self._clock():
            self._forget(key)
            return None
        self._near.move_to_end(key)
        return found[0]

    async def look(self, key: str) -> Outcome | None:
        """Return what the store remembers; look-ups of one event-loop turn travel together."""
        value = (await self._store.get_many((key,)))[0]
        if value is None:
            return None
        outcome = self.decode(key, value)
        if outcome is None or isinstance(outcome, Failed):
            return None
        self.remember(key, outcome, len(value))
        return outcome

    def remember(self, key: str, outcome: Outcome, size: int) -> None:
        """Keep an outcome in this process; the least recently used goes first."""
        self._forget(key)
        if not outcome.cacheable or size > self._near_bytes or self._near_entries < 1:
            return
        self._near[key] = (outcome, self._clock() + self._near_ttl_s, size)
        self._bytes += size
        while len(self._near) > self._near_entries or self._bytes > self._near_bytes:
            self._forget(next(iter(self._near)))

    async def put(self, key: str, outcome: Outcome) -> None:
        """Keep an outcome in the store, if it may be kept."""
        if outcome.cacheable:
            self._stats.cache["stored"] += 1
            await self._store.put(key, self.encode(key, outcome), ttl_s=self.ttl_s)

    def encode(self, key: str, outcome: Outcome) -> bytes:
        """Return the value that stands for ``outcome``."""
        return _ENCODER.encode(_Stored(FORMAT, key, outcome))

    def decode(self, key: str, value: bytes) -> Outcome | None:
        """Return the outcome that ``value`` stands for; None for garbage."""
        try:
            stored = _DECODER.decode(value)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            stored = None
        if stored is None or stored.format != FORMAT or stored.key != key:
            self._stats.cache["garbage"] += 1
            return None
        return stored.outcome

    def _forget(self, key: str) -> None:
        found = self._near.pop(key, None)
        if found is not None:
            self._bytes -= found[2]
