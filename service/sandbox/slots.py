"""Who runs now and who waits: a bounded first-come queue in front of a number of slots.

A call that has been running for long is *slow*: it keeps its slot but no longer counts against
those who wait, up to a limit, so that a few hanging graders do not stop everybody else for their
whole time limit.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from graders.errors import SandboxOverloadedError

if TYPE_CHECKING:
    from collections.abc import Callable

_FIRST_GUESS_S = 0.05
_SMOOTHING = 0.1


class Slots:
    """Numbers from 0 to ``width + slow_width - 1``, each held by at most one call.

    Attributes:
        running: Numbers held now.
        slow: Those held by slow calls.
    """

    def __init__(self, width: int, slow_width: int, queue_length: int) -> None:
        """Start with every slot free.

        Args:
            width: Calls that run at once.
            slow_width: Slow calls that do not count against ``width``.
            queue_length: Calls that may wait.
        """
        self._width = width
        self._slow_width = slow_width
        self._queue_length = queue_length
        self._free = deque(range(width + slow_width))
        self._waiting: deque[asyncio.Future[int]] = deque()
        self.running: set[int] = set()
        self.slow: set[int] = set()
        self._usual_s = _FIRST_GUESS_S

    @property
    def waiting(self) -> int:
        """Calls in the queue."""
        return sum(not waiter.done() for waiter in self._waiting)

    async def acquire(self) -> int:
        """Return a slot's number, after waiting for one if need be.

        Raises:
            OverloadedError: The queue is full.
        """
        if not self._waiting and self._has_room():
            return self._take()
        if len(self._waiting) >= self._queue_length and self.waiting >= self._queue_length:
            retry_after_s = max(1.0, round(self._usual_s * self._queue_length / self._width, 1))
            msg = f"{self._queue_length} Python grader calls are waiting already"
            raise SandboxOverloadedError(
                msg, retry_after_s=retry_after_s, kind="sandbox_queue_full"
            )
        waiter: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                self.release(waiter.result(), held_s=None)
            raise

    def release(self, slot: int, *, held_s: float | None) -> None:
        """Give ``slot`` back; ``held_s`` feeds the estimate of how long a queue takes."""
        self.running.discard(slot)
        self.slow.discard(slot)
        self._free.appendleft(slot)  # the directory that was used last is the warmest
        if held_s is not None:
            self._usual_s += _SMOOTHING * (held_s - self._usual_s)
        self._serve_waiting()

    def let_others_pass(self, slot: int) -> bool:
        """Call ``slot`` slow ahead of time, if only few are; return whether it is now.

        A few endless calls then cost those who wait next to nothing, and a batch whose calls are
        all long is not started all at once.
        """
        if len(self.slow) >= min(self._width, self._slow_width):
            return False
        self.mark_slow(slot)
        return slot in self.slow

    def mark_slow(self, slot: int) -> None:
        """Stop counting ``slot`` against those who wait, if there is still room for slow calls."""
        if slot in self.running and len(self.slow) < self._slow_width:
            self.slow.add(slot)
            self._serve_waiting()

    def _has_room(self) -> bool:
        return len(self.running) - len(self.slow) < self._width and bool(self._free)

    def _take(self) -> int:
        slot = self._free.popleft()
        self.running.add(slot)
        return slot

    def _serve_waiting(self) -> None:
        while self._waiting and self._has_room():
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(self._take())


class Turn:
    """One call's time in a slot, from its start: after a while it gives way to the others."""

    def __init__(
        self, slots: Slots, slot: int, *, give_way_after_s: float, slow_after_s: float
    ) -> None:
        """Start the clock."""
        self._slots = slots
        self._slot = slot
        self._give_way_after_s = give_way_after_s
        self._left_s = slow_after_s - give_way_after_s
        self._renice: Callable[[], None] | None = None
        self._late = False
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(give_way_after_s, self._give_way)
        self._second: asyncio.TimerHandle | None = None

    def begin(self, renice: Callable[[], None]) -> None:
        """Note that what had to come first is done; ``renice`` lowers the call's priority."""
        self._renice = renice
        if self._late:
            self._second = self._loop.call_later(self._give_way_after_s, renice)

    def _give_way(self) -> None:
        self._late = True
        if self._renice is not None:
            self._renice()
        if not self._slots.let_others_pass(self._slot):
            self._timer = self._loop.call_later(self._left_s, self._slots.mark_slow, self._slot)

    def end(self) -> None:
        """Stop the clock: the slot is somebody else's now."""
        self._timer.cancel()
        if self._second is not None:
            self._second.cancel()
