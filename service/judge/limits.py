"""How many calls an upstream gets: slots with a bounded queue, and tokens per minute.

Both adapt: a 429 halves the slots and slows the buckets, every success gives a little back. Limits
hold for this process; `JudgeConfig.share` divides them among processes.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Final

_LEAST_RATE: Final = 0.1
_CALM_S: Final = 1.0
"""Seconds in which several 429s count as one: they answer calls sent before the slow-down."""


class QueueFullError(Exception):
    """No slot is free and the queue is as long as it may get."""


class Slots:
    """A semaphore whose size follows the upstream's 429s, with a queue of bounded length.

    Args:
        most: Slots when all is well.
        queue: Longest queue.
        clock: Monotonic seconds.
    """

    def __init__(self, most: int, queue: int, *, clock: Callable[[], float] = monotonic) -> None:
        """Start with every slot free."""
        self.limit: float = most
        self.active = 0
        self._most = most
        self._longest = queue
        self._clock = clock
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._calm_until = float("-inf")

    @property
    def queued(self) -> int:
        """Calls waiting for a slot."""
        return len(self._waiting)

    def acquire_now(self) -> bool:
        """Take a slot if one is free and nobody waits; return whether it was taken."""
        if self._waiting or self.active >= int(self.limit):
            return False
        self.active += 1
        return True

    async def acquire(self) -> None:
        """Take a slot, first come first served.

        Raises:
            QueueFullError: Too many are waiting already.
        """
        if self.acquire_now():
            return
        if len(self._waiting) >= self._longest:
            raise QueueFullError
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                self.release()
            elif turn in self._waiting:  # else `_wake` has passed over it already
                self._waiting.remove(turn)
            raise

    def release(self) -> None:
        """Give a slot back."""
        self.active -= 1
        self._wake()

    def slow_down(self) -> None:
        """Halve the slots, at most once in a short while."""
        now = self._clock()
        if now >= self._calm_until:
            self._calm_until = now + _CALM_S
            self.limit = max(1.0, self.limit / 2)

    def recover(self) -> None:
        """Give back one slot for every full round of successes."""
        if self.limit < self._most:
            self.limit = min(float(self._most), self.limit + 1 / self.limit)
            self._wake()

    def _wake(self) -> None:
        while self._waiting and self.active < int(self.limit):
            turn = self._waiting.popleft()
            if not turn.done():
                self.active += 1
                turn.set_result(None)


class Bucket:
    """Amounts per minute: a tenth of the minute's amount may go at once, the rest flows evenly.

    In no window of a minute does more than ``per_minute`` leave: a burst of a tenth plus nine
    tenths of flow.

    Args:
        per_minute: Amount a minute.
        clock: Monotonic seconds.
    """

    def __init__(self, per_minute: float, *, clock: Callable[[], float] = monotonic) -> None:
        """Start full."""
        self._burst = max(1.0, per_minute / 10)
        self._flow = per_minute * 0.9 / 60
        self._factor = 1.0
        self._clock = clock
        self._level = self._burst
        self._at = clock()

    def take(self, amount: float) -> float:
        """Return seconds to wait before ``amount`` may leave; it counts as taken."""
        now = self._clock()
        rate = self._flow * self._factor
        self._level = min(self._burst, self._level + (now - self._at) * rate)
        self._at = now
        self._level -= amount
        return max(0.0, -self._level / rate)

    def give_back(self, amount: float) -> None:
        """Return what was taken and not used; a negative amount takes more."""
        self._level = min(self._burst, self._level + amount)

    def slow_down(self) -> None:
        """Let less through, but never less than a tenth."""
        self._factor = max(_LEAST_RATE, self._factor * 0.7)

    def recover(self) -> None:
        """Give a hundredth of the full rate back."""
        self._factor = min(1.0, self._factor + 0.01)
