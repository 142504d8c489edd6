"""The supervisor's ends of the sockets to a base zygote and its tiers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from typing import TYPE_CHECKING, Any

from service.sandbox.guest.warmups import PACKAGES, STANDARD
from service.sandbox.guest.zygote import (
    CALL,
    COMPILE,
    ENDED,
    EXCEEDED,
    FAILED,
    HOLDS,
    MAX_FDS,
    MAX_MESSAGE,
    NICE,
    READY,
    REPLY,
    REQUEST,
    SCRATCH,
    STARTED,
    TIER,
)
from service.sandbox.problems import ZygoteLostError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from service.sandbox.calls import Call

_USUAL_MESSAGE = 2048
_SLOW_NICE = 15
_STANDARD = {name.partition(".")[0] for name in STANDARD}
_NO_SEED = b"\0" * 16


def bits_of(names: Sequence[str] | frozenset[str], available: frozenset[str]) -> int:
    """Return the bit set of those ``names`` that are known packages and in the image."""
    # What a heavy package brings along needs no bit of its own, but "standard" is cheap beside
    # those.
    wanted = {"standard", *names} if _STANDARD.intersection(names) else names
    return sum(
        1 << index for index, name in enumerate(PACKAGES) if name in wanted and name in available
    )


class Link:
    """One end of a message socket.

    Attributes:
        ready: Facts that came with READY; an exception when the zygote failed before.
        closed: Whether the other end is gone.
    """

    def __init__(self, end: socket.socket) -> None:
        """Listen on ``end``."""
        self._loop = asyncio.get_running_loop()
        self._end = end
        end.setblocking(False)  # noqa: FBT003
        self.ready: asyncio.Future[dict[str, Any]] = self._loop.create_future()
        self.closed = False
        self._sizes = (MAX_MESSAGE, MAX_FDS)
        self._loop.add_reader(end.fileno(), self._readable)

    def send(self, message: bytes, fds: Sequence[int]) -> None:
        """Send one message.

        Raises:
            ZygoteLostError: The other end is gone, or does not read any more.
        """
        if self.closed:
            msg = "the zygote has ended"
            raise ZygoteLostError(msg)
        try:
            socket.send_fds(self._end, [message], list(fds))
        except OSError as error:
            msg = f"the zygote cannot be reached: {error}"
            raise ZygoteLostError(msg) from error

    def close(self) -> None:
        """Hang up; the zygote kills what it has and ends."""
        if self.closed:
            return
        self.closed = True
        self._loop.remove_reader(self._end.fileno())
        self._end.close()
        self._fail("the zygote has ended")
        self.on_closed()

    def on_message(
        self,
        operation: int,  # noqa: ARG002
        call_id: int,  # noqa: ARG002
        numbers: tuple[int, int, int],  # noqa: ARG002
        rest: bytes,  # noqa: ARG002
        fds: list[int],
    ) -> None:
        """Take one message that is not about readiness."""
        for fd in fds:
            os.close(fd)

    def on_closed(self) -> None:
        """Take the end of the link."""

    def _fail(self, why: str) -> None:
        if not self.ready.done():
            self.ready.set_exception(ZygoteLostError(why))
            self.ready.exception()  # not everybody waits for it

    def _readable(self) -> None:
        while not self.closed:
            try:
                message, fds, _, _ = socket.recv_fds(self._end, *self._sizes)
            except BlockingIOError:
                return
            except OSError:
                message, fds = b"", []
            if not message:
                self.close()
                return
            operation, call_id, status, peak, cpu_us = REPLY.unpack_from(message)
            rest = message[REPLY.size :]
            if operation == READY and not self.ready.done():
                self.ready.set_result(json.loads(rest))
                self._sizes = (_USUAL_MESSAGE, 1)
            elif operation == FAILED and not self.ready.done():
                self._fail(rest.decode(errors="replace"))
            else:
                self.on_message(operation, call_id, (status, peak, cpu_us), rest, fds)


class TierLink(Link):
    """A tier: forks leaves for calls.

    Attributes:
        bits: Its package set.
        calls: Calls in flight, by id.
        awaited: Calls that will begin as soon as it is ready.
        served: Calls begun so far.
        memory_bytes: Its own memory, once it is ready.
    """

    def __init__(self, end: socket.socket, bits: int) -> None:
        """Listen on ``end``."""
        super().__init__(end)
        self.bits = bits
        self.calls: dict[int, Call] = {}
        self.awaited = 0
        self.served = 0
        self.memory_bytes = 0

    @property
    def packages(self) -> tuple[str, ...]:
        """Names of the package set."""
        return tuple(name for index, name in enumerate(PACKAGES) if self.bits >> index & 1)

    def begin(
        self, call: Call, *, slot: int, cpu_s: int, seed: bytes | None, fds: Sequence[int]
    ) -> None:
        """Have a leaf forked for ``call``: to run (two descriptors) or to compile (one).

        Raises:
            ZygoteLostError: The tier is gone; the call is over.
        """
        operation = CALL if len(fds) > 1 else COMPILE
        message = REQUEST.pack(
            operation, call.call_id, slot, cpu_s, seed is not None, seed or _NO_SEED
        )
        self.calls[call.call_id] = call
        self.served += 1
        try:
            self.send(message, [*fds, call.write_end])
        except ZygoteLostError as error:
            del self.calls[call.call_id]
            call.lost(str(error))
            raise
        finally:
            os.close(call.write_end)

    def give_way(self, call: Call) -> None:
        """Lower the priority of the leaf of ``call``."""
        with contextlib.suppress(ZygoteLostError):
            self.send(REQUEST.pack(NICE, call.call_id, 0, _SLOW_NICE, False, _NO_SEED), ())  # noqa: FBT003

    def on_message(
        self,
        operation: int,
        call_id: int,
        numbers: tuple[int, int, int],
        rest: bytes,
        fds: list[int],
    ) -> None:
        """Tell the call that the message is about."""
        if operation == ENDED:
            ended = self.calls.pop(call_id, None)
            if ended is not None:
                ended.ended(numbers[0], numbers[1])
        elif operation == STARTED and call_id in self.calls:
            if fds:
                self.calls[call_id].started(fds[0])
            else:  # we have no descriptor left for it: what cannot be killed must not run
                self.close()
        elif operation == HOLDS and call_id in self.calls:
            self.calls[call_id].held_bytes = numbers[1]
        elif operation == EXCEEDED and call_id in self.calls:
            self.calls[call_id].exceeded(rest.decode(), numbers[1])
        elif operation == FAILED:
            why = rest.decode(errors="replace")
            # A leaf that was never forked will not be reported as ended.
            refused = (
                self.calls.pop(call_id, None) if why.startswith("fork") else self.calls.get(call_id)
            )
            if refused is not None:
                refused.refused(why)
        else:
            super().on_message(operation, call_id, numbers, rest, fds)

    def on_closed(self) -> None:
        """Tell every call in flight that its zygote is gone."""
        calls, self.calls = self.calls, {}
        for call in calls.values():
            call.lost("the zygote has ended")


class BaseLink(Link):
    """The base zygote: forks tiers."""

    def __init__(self, end: socket.socket) -> None:
        """Listen on ``end``."""
        super().__init__(end)
        self._scratch: list[int] = []

    def take_scratch(self) -> list[int]:
        """Return the descriptors of its own scratch directories, in order of slots; only once."""
        taken, self._scratch = self._scratch, []
        return taken

    def on_message(
        self,
        operation: int,
        call_id: int,
        numbers: tuple[int, int, int],
        rest: bytes,
        fds: list[int],
    ) -> None:
        """Keep the scratch directories."""
        if operation == SCRATCH:
            self._scratch += fds
        else:
            super().on_message(operation, call_id, numbers, rest, fds)

    def on_closed(self) -> None:
        """Close what nobody has taken."""
        for fd in self.take_scratch():
            os.close(fd)

    def fork_tier(self, bits: int) -> TierLink:
        """Return a new tier, not ready yet.

        Raises:
            ZygoteLostError: The base is gone.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        tier = TierLink(ours, bits)
        try:
            self.send(REQUEST.pack(TIER, bits, 0, 0, False, _NO_SEED), [theirs.fileno()])  # noqa: FBT003
        except ZygoteLostError:
            tier.close()
            raise
        finally:
            theirs.close()
        return tier
