"""The ``process`` level: a fresh interpreter a call, resource limits, an empty environment.

For macOS and for kernels without anything better, and only where the operator has asked for it.
Same port, same results; a hostile grader can read files, reach the network and hurt processes of
the same user.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import struct
import sys
import tempfile
import time
from collections import Counter
from typing import TYPE_CHECKING

from graders.errors import DefinitionError, OverloadedError, SandboxUnavailableError
from graders.ports import SandboxResult, SandboxRun
from service.sandbox.calls import Finished, FrameError, cpu_seconds, decode_frame, without_answer
from service.sandbox.config import IsolationReport, RunTerms, SandboxConfig, SandboxStats
from service.sandbox.environment import ENVIRONMENT
from service.sandbox.guest import boot_code
from service.sandbox.slots import Slots
from service.sandbox.supervisor import encoded, seed_of, unknown_image, with_hint

if TYPE_CHECKING:
    from collections.abc import Mapping

_LENGTH = struct.Struct("=I")


class ProcessSandbox:
    """Runs Python graders in fresh interpreters; a `graders.ports.Sandbox`."""

    def __init__(self, config: SandboxConfig, notes: tuple[str, ...] = ()) -> None:
        """Prepare; ``notes`` say why there is nothing better."""
        self._config = config
        width = config.slots or os.cpu_count() or 1
        self._slots = Slots(width, config.slow_slots, config.queue_length)
        self._calls: Counter[str] = Counter()
        self._kills: Counter[str] = Counter()
        self._queue_s = 0.0
        self._execution_s = 0.0
        self._running: set[asyncio.subprocess.Process] = set()
        self._notes = (*notes, "no isolation beyond a separate process: only run graders you trust")

    @property
    def image_tags(self) -> tuple[str, ...]:
        """Known image tags."""
        return tuple(self._config.images)

    def report(self) -> IsolationReport:
        """Return that there is next to no isolation."""
        return IsolationReport(
            level="process",
            minimum_level="process",
            profile=self._config.profile,
            notes=self._notes,
            uid=os.getuid(),
        )

    def stats(self) -> SandboxStats:
        """Return counters since the start and gauges of now."""
        return SandboxStats(
            calls=dict(self._calls),
            queue_s=self._queue_s,
            execution_s=self._execution_s,
            kills=dict(self._kills),
            zygote_restarts=0,
            running=len(self._slots.running),
            slow=len(self._slots.slow),
            waiting=self._slots.waiting,
            tiers=(),
            level="process",
        )

    async def run(self, run: SandboxRun, terms: RunTerms | None = None) -> SandboxResult:
        """Return what the grader did with this payload, under ``terms`` where those are stricter.

        Raises:
            SandboxUnavailableError: The interpreter does not start.
            OverloadedError: The bounded queue is full.
            DefinitionError: Unknown image tag, or a source that is too long.
        """
        interpreter = self._config.images.get(run.image_tag)
        if interpreter is None:
            raise DefinitionError([unknown_image(run.image_tag, self.image_tags)])
        source = encoded(run.source, self._config.max_source_bytes)
        terms = (terms or RunTerms(timeout_s=self._config.timeout_s)).within(self._config)
        queued = time.monotonic()
        try:
            slot = await self._slots.acquire(hash(source))
        except OverloadedError:
            self._calls["overloaded"] += 1
            raise
        started = time.monotonic()
        self._queue_s += started - queued
        slow = asyncio.get_running_loop().call_later(
            self._config.slow_after_s, self._slots.mark_slow, slot
        )
        try:
            finished = await self._execute(interpreter, source, run.payload, terms)
        finally:
            slow.cancel()
            self._slots.release(slot, held_s=time.monotonic() - started)
        self._calls[finished.outcome] += 1
        self._execution_s += time.monotonic() - started
        return SandboxResult(
            outcome=finished.outcome,
            value=finished.value if finished.outcome == "value" else None,
            details=with_hint(finished.details, frozenset()),
            stdout=finished.stdout.decode(errors="replace"),
            stderr=finished.stderr.decode(errors="replace"),
            execution_time_s=time.monotonic() - started,
            diagnostics={"isolation": "process", "profile": self._config.profile},
        )

    async def _execute(
        self, interpreter: str, source: bytes, payload: bytes, terms: RunTerms
    ) -> Finished:
        try:
            directory = await asyncio.to_thread(
                tempfile.mkdtemp, prefix="gradekeeper-", dir=self._config.scratch_dir
            )
        except OSError as error:
            msg = f"there is no place for a grader's files: {error}"
            raise SandboxUnavailableError(msg, kind="no_scratch") from error
        try:
            process = await asyncio.create_subprocess_exec(
                interpreter, "-s", "-P", "-B", "-X", "utf8", "-c", boot_code("oneshot"),
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                env=_environment(directory), cwd=directory, start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)
            msg = f"the grader interpreter does not start: {error.strerror}"
            raise SandboxUnavailableError(msg, kind="no_interpreter") from error
        self._running.add(process)
        try:
            return await self._converse(
                process, self._request(source, payload, terms), terms.timeout_s
            )
        finally:
            self._running.discard(process)
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
            await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)

    def _request(self, source: bytes, payload: bytes, terms: RunTerms) -> bytes:
        config = self._config
        seed = seed_of(terms.seeds, source, payload)
        settings = {
            "memory_bytes": config.memory_bytes if sys.platform == "linux" else 0,
            "disk_bytes": config.disk_bytes,
            "cpu_s": cpu_seconds(terms.timeout_s, config.cores),
            "max_output_bytes": config.max_output_bytes,
            "seed": int.from_bytes(seed, "big") if seed else None,
        }
        parts = (json.dumps(settings).encode(), source, payload)
        return b"".join(_LENGTH.pack(len(part)) + part for part in parts)

    async def _converse(
        self, process: asyncio.subprocess.Process, request: bytes, timeout_s: float
    ) -> Finished:
        limit = 2 * self._config.max_output_bytes + 8192
        try:
            async with asyncio.timeout(timeout_s):
                answer = await _exchange(process, request, limit)
                await _stop(process)
        except TimeoutError:
            self._kills["timeout"] += 1
            return Finished(outcome="timeout", details=f"timed out after {timeout_s:g} s")
        except FrameError as error:
            return Finished(outcome=error.outcome, details=str(error))
        return decode_frame(answer, limit) or without_answer(process.returncode or 0)

    async def close(self) -> None:
        """Kill what runs."""
        for process in list(self._running):
            with contextlib.suppress(ProcessLookupError):
                process.kill()


async def _exchange(process: asyncio.subprocess.Process, request: bytes, limit: int) -> bytes:
    if process.stdin is None or process.stdout is None:  # asked for above
        return b""
    process.stdin.write(request)
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        await process.stdin.drain()
    process.stdin.close()
    answer = b""
    while len(answer) <= limit and decode_frame(answer, limit) is None:
        part = await process.stdout.read(1 << 16)
        if not part:
            break
        answer += part
    return answer


async def _stop(process: asyncio.subprocess.Process) -> None:
    """Let a process that has answered end; what it left running goes with its group."""
    try:
        async with asyncio.timeout(0.2):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


def _environment(directory: str) -> Mapping[str, str]:
    return ENVIRONMENT | {"HOME": directory, "TMPDIR": directory, "PWD": directory}
