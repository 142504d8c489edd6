"""One call as the supervisor sees it: a result pipe, a deadline, a pidfd, and two questions.

`Call.result` answers "what did the grader do" as early as that is known; `Call.gone` answers "is
its process reaped", and only then may the slot be wiped and used again. Whatever happens first, the
process is killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import signal
from typing import TYPE_CHECKING, Literal

import msgspec

from service.sandbox.guest.leaf import (
    BAD_VALUE,
    EXCEPTION,
    FRAME,
    MAGIC,
    MAX_DETAILS_BYTES,
    MEMORY,
    VALUE,
)
from service.sandbox.problems import ZygoteLostError

if TYPE_CHECKING:
    from collections.abc import Callable

    from graders.ports import SandboxOutcome

Reason = Literal[
    "finished", "timeout", "output", "disk", "memory", "processes", "threads",
    "cancelled", "garbage", "shutdown",
]  # fmt: skip

_READ_BYTES = 1 << 18
_EXCESSES: dict[str, tuple[Reason, SandboxOutcome, str]] = {
    "memory": ("memory", "memory", "bytes of memory"),
    "processes": ("processes", "output", "processes"),
    "threads": ("threads", "output", "threads"),
}
_KINDS: dict[int, SandboxOutcome] = {
    VALUE: "value",
    BAD_VALUE: "bad_value",
    EXCEPTION: "exception",
    MEMORY: "memory",
}


class Finished(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one process.

    Attributes:
        outcome: As `SandboxResult` has it.
        value: The double of the frame; means something only with ``value``.
        details: Text of the frame, or our sentence.
        stdout: Bytes of the frame's first stream.
        stderr: Bytes of the frame's second stream.
    """

    outcome: SandboxOutcome
    value: float = 0.0
    details: str = ""
    stdout: bytes = b""
    stderr: bytes = b""


class FrameError(ValueError):
    """Bytes on the result pipe that are not a result."""

    def __init__(self, reason: Reason, outcome: SandboxOutcome, message: str) -> None:
        """Keep what to answer."""
        self.reason = reason
        self.outcome = outcome
        super().__init__(message)


def decode_frame(data: bytes | bytearray, max_bytes: int) -> Finished | None:
    """Return the result in ``data``, None while it is incomplete.

    Nothing in it is believed but its lengths, and those are bounded.

    Raises:
        FrameError: It cannot become a result.
    """
    if len(data) < FRAME.size:
        return None
    magic, kind, value, details, stdout, stderr = FRAME.unpack_from(data)
    size = FRAME.size + details + stdout + stderr
    outcome = _KINDS.get(kind)
    if magic != MAGIC or outcome is None or details > max(MAX_DETAILS_BYTES, max_bytes // 16):
        raise FrameError("garbage", "no_result", "the process wrote something else than a result")
    if size > max_bytes:
        raise FrameError("output", "output", f"the result is longer than {max_bytes} bytes")
    if len(data) < size:
        return None
    first, second = FRAME.size + details, FRAME.size + details + stdout
    return Finished(
        outcome=outcome,
        value=value,
        details=bytes(data[FRAME.size : first]).decode(errors="replace"),
        stdout=bytes(data[first:second]),
        stderr=bytes(data[second:size]),
    )


def without_answer(code: int) -> Finished:
    """Return what to say of a process that ended with ``code`` (negative: a signal), no result."""
    if code >= 0:
        return Finished(
            outcome="no_result",
            details=f"the process ended with status {code} before grade returned",
        )
    if -code == signal.SIGXCPU:
        return Finished(outcome="timeout", details="used up its CPU time")
    return Finished(outcome="no_result", details=f"the process was ended by {_signal_name(-code)}")


class Call:
    """One process: from the request to a zygote until it is reaped.

    Attributes:
        call_id: Number that the zygote uses for it.
        result: What the grader did; an exception only for faults that are not the grader's.
        gone: Done when the process does not exist any more.
        killed: Why the supervisor killed it; None if it has not.
        held_bytes: Space that it keeps in files without names, as far as its zygote has said.
    """

    def __init__(
        self,
        call_id: int,
        *,
        timeout_s: float,
        memory_bytes: int,
        max_frame_bytes: int,
        on_kill: Callable[[Reason], None],
    ) -> None:
        """Open the result pipe and start the clock."""
        self._loop = asyncio.get_running_loop()
        self.call_id = call_id
        self.result: asyncio.Future[Finished] = self._loop.create_future()
        self.gone: asyncio.Future[None] = self._loop.create_future()
        self.killed: Reason | None = None
        self.held_bytes = 0
        self._timeout_s = timeout_s
        self._memory_bytes = memory_bytes
        self._max_frame_bytes = max_frame_bytes
        self._on_kill = on_kill
        self._pidfd: int | None = None
        self._ended = False
        self._buffer = bytearray()
        self._pipe, self.write_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        os.set_blocking(self.write_end, True)
        self._loop.add_reader(self._pipe, self._readable)
        self._timer = self._loop.call_later(timeout_s, self._expire)

    def started(self, pidfd: int) -> None:
        """Take over the descriptor of the process."""
        self._pidfd = pidfd
        if self.killed is not None:
            self._signal()

    def ended(self, status: int, peak_memory_kb: int) -> None:
        """Note that the zygote has reaped the process."""
        if self._pipe >= 0:
            self._readable()
        self._ended = True
        if not self.result.done():
            self.result.set_result(self._without_answer(status, peak_memory_kb))
        self._close()

    def lost(self, why: str) -> None:
        """Note that the zygote is gone; the process, if there is one, is killed and awaited."""
        if not self.result.done():
            self.result.set_exception(ZygoteLostError(why))
            self.result.exception()  # a cancelled caller does not look
        if self._pidfd is None:
            self._close()
            return
        self._signal()
        with contextlib.suppress(OSError, ValueError):
            self._loop.add_reader(self._pidfd, self._close)

    def refused(self, why: str) -> None:
        """Note that the leaf was not forked, or could not lock itself (then its end follows)."""
        if not self.result.done():
            self.result.set_exception(ZygoteLostError(f"the sandbox could not be entered: {why}"))
            self.result.exception()  # a cancelled caller does not look
        if self._pidfd is None and why.startswith("fork"):
            self._close()

    def kill(self, reason: Reason) -> None:
        """Kill the process, now or as soon as it is known; only the first reason counts."""
        if self.killed is None and not self._ended:
            self.killed = reason
            if reason != "finished":
                self._on_kill(reason)
            self._signal()

    def stop(self, reason: Reason, outcome: SandboxOutcome, details: str) -> None:
        """Kill the process and answer for it."""
        if not self.result.done():
            self.result.set_result(Finished(outcome=outcome, details=details))
            self.kill(reason)

    def exceeded(self, what: str, limit: int) -> None:
        """Note that the zygote kills the process, which has more than ``limit`` of something."""
        reason, outcome, unit = _EXCESSES[what]
        self.stop(reason, outcome, f"used more than {limit} {unit}")

    def _expire(self) -> None:
        self.stop("timeout", "timeout", f"timed out after {self._timeout_s:g} s")

    def _signal(self) -> None:
        if self._pidfd is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def _readable(self) -> None:
        try:
            part = os.read(self._pipe, _READ_BYTES)
        except BlockingIOError:
            return
        if not part:
            self._close_pipe()
            return
        self._buffer += part
        if not self.result.done():
            self._decode()

    def _decode(self) -> None:
        try:
            finished = decode_frame(self._buffer, self._max_frame_bytes)
        except FrameError as error:
            self.stop(error.reason, error.outcome, str(error))
            return
        if finished is not None:
            self.result.set_result(finished)
            self._timer.cancel()
            self.kill("finished")

    def _without_answer(self, status: int, peak_memory_kb: int) -> Finished:
        code = os.waitstatus_to_exitcode(status)
        if code == -signal.SIGKILL and peak_memory_kb * 1024 * 10 > self._memory_bytes * 8:
            return Finished(outcome="memory", details="killed, most likely for its memory")
        return without_answer(code)

    def _close_pipe(self) -> None:
        if self._pipe >= 0:
            self._loop.remove_reader(self._pipe)
            os.close(self._pipe)
            self._pipe = -1

    def _close(self) -> None:
        self._timer.cancel()
        self._close_pipe()
        if self._pidfd is not None:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = None
        self._ended = True
        if not self.gone.done():
            self.gone.set_result(None)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def sealed(data: bytes) -> int:
    """Return a memfd that holds ``data`` and that nobody can change any more."""
    import fcntl  # noqa: PLC0415 - Linux only, like everything that calls this

    fd = os.memfd_create("gradekeeper", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        seals = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    except OSError:
        os.close(fd)
        raise
    return fd


def cpu_seconds(timeout_s: float, cores: int) -> int:
    """Return the CPU limit behind a wall limit: a little more than ``cores`` can use in it."""
    return math.ceil(timeout_s * cores) + 2
