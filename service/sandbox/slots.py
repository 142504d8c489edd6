"""Who runs now and who waits: bounded queues in front of a number of slots, one for each grader.

A call that has been running for long is *slow*: it keeps its slot but no longer counts against
those who wait, up to a limit, so that a few hanging graders do not stop everybody else for their
whole time limit. Graders take turns, and one of which a call is slow comes last: a batch of which
every row hangs costs the others little, and the last slots are never its own.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict, deque
from typing import TYPE_CHECKING

from graders.errors import SandboxOverloadedError

if TYPE_CHECKING:
    from collections.abc import Callable

_FIRST_GUESS_S = 0.05
_SMOOTHING = 0.1
_TURNS_OF_SLOW = 8  # every so many turns one goes to a grader that has slow calls
_KEPT_FREE = 4  # one slot in so many is not for graders that have slow calls


class Slots:
    """Numbers from 0 to ``width + slow_width - 1``, each held by at most one call.

    Attributes:
        running: Numbers held now, with the grader that holds them.
        slow: Those held by slow calls.
        waiting: Calls in the queues.
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
        self._most_of_slow = width + slow_width - min(max(1, width // _KEPT_FREE), slow_width // 2)
        self._free = deque(range(width + slow_width))
        self._queues: OrderedDict[int, deque[asyncio.Future[int]]] = OrderedDict()
        self._turn = 1
        self.waiting = 0
        self.running: dict[int, int] = {}
        self.slow: set[int] = set()
        self._slow_calls: Counter[int] = Counter()
        self._usual_s = _FIRST_GUESS_S

    async def acquire(self, grader: int) -> int:
        """Return a slot's number for a call of ``grader``, after waiting for one if need be.

        Raises:
            SandboxOverloadedError: The queues are full.
        """
        if self._has_room(grader) and self._next() is None:
            return self._take(grader)
        if self.waiting >= self._queue_length:
            retry_after_s = max(1.0, round(self._usual_s * self._queue_length / self._width, 1))
            msg = f"{self._queue_length} Python grader calls are waiting already"
            raise SandboxOverloadedError(
                msg, retry_after_s=retry_after_s, kind="sandbox_queue_full"
            )
        waiter: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._queues.setdefault(grader, deque()).append(waiter)
        self.waiting += 1
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                self.release(waiter.result(), held_s=None)
            raise
        finally:
            self.waiting -= 1

    def release(self, slot: int, *, held_s: float | None) -> None:
        """Give ``slot`` back; ``held_s`` feeds the estimate of how long a queue takes."""
        grader = self.running.pop(slot)
        if slot in self.slow:
            self.slow.discard(slot)
            self._slow_calls[grader] -= 1
            if not self._slow_calls[grader]:
                del self._slow_calls[grader]
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
        if slot in self.running and slot not in self.slow and len(self.slow) < self._slow_width:
            self.slow.add(slot)
            self._slow_calls[self.running[slot]] += 1
            self._serve_waiting()

    def _has_room(self, grader: int) -> bool:
        return self._has_any_room() and (
            grader not in self._slow_calls or len(self.running) < self._most_of_slow
        )

    def _has_any_room(self) -> bool:
        return len(self.running) - len(self.slow) < self._width and bool(self._free)

    def _take(self, grader: int) -> int:
        slot = self._free.popleft()
        self.running[slot] = grader
        return slot

    def _serve_waiting(self) -> None:
        while (grader := self._next()) is not None:
            queue = self._queues[grader]
            waiter = queue.popleft()
            if queue:
                self._queues.move_to_end(grader)
            else:
                del self._queues[grader]
            if not waiter.done():
                self._turn += 1
                waiter.set_result(self._take(grader))

    def _next(self) -> int | None:
        """Return whose turn it is; None while there is no slot for anybody who waits."""
        if not self._queues or not self._has_any_room():
            return None
        first = next((one for one in self._queues if one not in self._slow_calls), None)
        if first is not None and self._turn % _TURNS_OF_SLOW:
            return first
        slow = (one for one in self._queues if one in self._slow_calls and self._has_room(one))
        return next(slow, first)


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
