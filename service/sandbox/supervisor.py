"""The sandbox: admission, one retry for what is not the grader's fault, results and counters."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import re
import time
from collections import Counter
from typing import TYPE_CHECKING, ParamSpec

from graders.errors import DefinitionError, Finding, OverloadedError, SandboxUnavailableError
from graders.ports import SandboxResult, SandboxRun
from service.sandbox import scratch
from service.sandbox.config import IsolationReport, SandboxConfig, SandboxStats, TierStats
from service.sandbox.environment import Environment, known_packages
from service.sandbox.problems import ShortageError, ZygoteLostError, is_shortage
from service.sandbox.slots import Slots

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from service.sandbox.calls import Call, Finished, Reason
    from service.sandbox.zygotes import TierLink

P = ParamSpec("P")

_SLOW_NICE = 15
_DISK_CHECK_S = 0.2
_MISSING_MODULE = re.compile(r"ModuleNotFoundError: No module named '([A-Za-z0-9_]+)")


class SubprocessSandbox:
    """Runs Python graders in locked-down children of this process; a `graders.ports.Sandbox`."""

    def __init__(self, config: SandboxConfig) -> None:
        """Prepare; `start_sandbox` starts it and finds out how strong it is."""
        self._config = config
        width = config.slots or len(os.sched_getaffinity(0))
        self._slots = Slots(width, config.slow_slots, config.queue_length)
        self._kills: Counter[str] = Counter()
        self._calls: Counter[str] = Counter()
        self._queue_s = 0.0
        self._execution_s = 0.0
        self._report = IsolationReport(
            level="process", minimum_level=config.minimum_level, profile=config.profile
        )
        self._cleaning: set[asyncio.Task[None]] = set()
        self._live: set[Call] = set()
        self._closed = False
        self._environments = {
            tag: Environment(
                tag, interpreter, config, slots=width + config.slow_slots, on_kill=self._count_kill
            )
            for tag, interpreter in config.images.items()
        }

    @property
    def image_tags(self) -> tuple[str, ...]:
        """Known image tags."""
        return tuple(self._environments)

    @property
    def environments(self) -> tuple[Environment, ...]:
        """The images at work."""
        return tuple(self._environments.values())

    async def start(self) -> None:
        """Start the base zygotes.

        Raises:
            ZygoteLostError: One does not start.
        """
        for environment in self._environments.values():
            await environment.start()

    async def prewarm(self) -> None:
        """Make the configured package sets ready.

        Raises:
            ZygoteLostError: One cannot be imported.
        """
        for environment in self._environments.values():
            for names in self._config.prewarm:
                await environment.tier(environment.bits(names))

    def describe(self, report: IsolationReport) -> None:
        """Take what the self-test found as this sandbox's isolation."""
        self._report = report

    def report(self) -> IsolationReport:
        """Return the isolation that the self-test found."""
        return self._report

    def stats(self) -> SandboxStats:
        """Return counters since the start and gauges of now."""
        return SandboxStats(
            calls=dict(self._calls),
            queue_s=self._queue_s,
            execution_s=self._execution_s,
            kills=dict(self._kills),
            zygote_restarts=sum(
                environment.restarts for environment in self._environments.values()
            ),
            running=len(self._slots.running),
            slow=len(self._slots.slow),
            waiting=self._slots.waiting,
            tiers=tuple(
                TierStats(
                    image_tag=environment.tag,
                    packages=tier.packages,
                    memory_bytes=tier.memory_bytes,
                    calls=tier.served,
                )
                for environment in self._environments.values()
                for tier in environment.tiers
            ),
            level=self._report.level,
        )

    def environment(self, image_tag: str) -> Environment:
        """Return the image ``image_tag``.

        Raises:
            DefinitionError: There is none of that name.
        """
        found = self._environments.get(image_tag)
        if found is None:
            raise DefinitionError([unknown_image(image_tag, self.image_tags)])
        return found

    async def run(self, run: SandboxRun) -> SandboxResult:
        """Return what the grader did with this payload.

        Raises:
            SandboxUnavailableError: User code was not run to an end, twice, for a reason of the
                sandbox's own.
            OverloadedError: The bounded queue is full.
            ShortageError: The system lacks descriptors, memory or disk.
            DefinitionError: Unknown image tag, or a source that is too long.
        """
        environment = self.environment(run.image_tag)
        source = encoded(run.source, self._config.max_source_bytes)
        try:
            result = await self._admit(environment, source, run.payload, self._config.timeout_s)
        except OverloadedError:
            self._calls["overloaded"] += 1
            raise
        except SandboxUnavailableError:
            self._calls["unavailable"] += 1
            raise
        except OSError as error:
            self._calls["unavailable"] += 1
            raise ShortageError(error) from error
        except asyncio.CancelledError:
            self._calls["cancelled"] += 1
            raise
        self._calls[result.outcome] += 1
        return result

    async def _admit(
        self, environment: Environment, source: bytes, payload: bytes, timeout_s: float
    ) -> SandboxResult:
        if self._closed:
            msg = "the sandbox is closed"
            raise SandboxUnavailableError(msg, kind="closed")
        queued = time.monotonic()
        slot = await self._slots.acquire()
        self._queue_s += time.monotonic() - queued
        try:
            return await self._run_in_slot(environment, source, payload, slot, timeout_s)
        except ZygoteLostError:
            pass
        # The first slot is being cleaned; whatever happened to the zygote may not happen again.
        slot = await self._slots.acquire()
        return await self._run_in_slot(environment, source, payload, slot, timeout_s)

    async def attack(
        self, environment: Environment, source: str, timeout_s: float
    ) -> SandboxResult:
        """Run a canary of the self-test, as `run` would run it, without counting it."""
        return await self._admit(
            environment, source.encode(), b'{"sample":{},"item":{}}', timeout_s
        )

    async def _run_in_slot(
        self, environment: Environment, source: bytes, payload: bytes, slot: int, timeout_s: float
    ) -> SandboxResult:
        call: Call | None = None
        started = time.monotonic()
        try:
            program = await environment.program(source)
            if program.failure is not None:
                return self._result(environment, program.failure, 0.0)
            tier = await environment.tier(program.bits)
            seed = seed_of(self._config, source, payload)
            started = time.monotonic()
            call = environment.begin(
                tier, program, payload, slot=slot, seed=seed, timeout_s=timeout_s
            )
            self._live.add(call)
            self._watch(environment, tier, call, slot)
            finished = await call.result
            return self._result(environment, finished, time.monotonic() - started)
        finally:
            if call is None:
                self._slots.release(slot, held_s=None)
            else:
                call.kill("cancelled")
                self._give_back(environment, call, slot, started)

    def _result(
        self, environment: Environment, finished: Finished, execution_s: float
    ) -> SandboxResult:
        self._execution_s += execution_s
        return SandboxResult(
            outcome=finished.outcome,
            value=finished.value if finished.outcome == "value" else None,
            details=with_hint(finished.details, environment.available),
            stdout=finished.stdout.decode(errors="replace"),
            stderr=finished.stderr.decode(errors="replace"),
            execution_time_s=execution_s,
            diagnostics={"isolation": self._report.level, "profile": self._config.profile},
        )

    def _give_back(self, environment: Environment, call: Call, slot: int, started: float) -> None:
        """Free the slot once the process is reaped and its scratch is empty."""

        def reaped(_: asyncio.Future[None]) -> None:
            self._live.discard(call)
            held_s = time.monotonic() - started
            try:
                if scratch.is_empty(environment.scratch_fd(slot)):
                    self._slots.release(slot, held_s=held_s)
                    return
            except IndexError:  # the zygotes were restarted, and their directories with them
                self._slots.release(slot, held_s=held_s)
                return
            except OSError as error:
                if error.errno == errno.EBADF:  # same, at this moment
                    self._slots.release(slot, held_s=held_s)
                    return
            self._spawn(self._clean, environment, slot, held_s)

        call.gone.add_done_callback(reaped)

    async def _clean(self, environment: Environment, slot: int, held_s: float) -> None:
        try:
            await asyncio.to_thread(scratch.wipe, environment.scratch_fd(slot))
        except (OSError, IndexError):
            # Not even empty directories are handed on: start over with new ones.
            await environment.recycle()
        finally:
            self._slots.release(slot, held_s=held_s)

    def _watch(self, environment: Environment, tier: TierLink, call: Call, slot: int) -> None:
        loop = asyncio.get_running_loop()

        def give_way() -> None:
            tier.renice(call, _SLOW_NICE)
            if not self._slots.let_others_pass(slot):
                left_s = self._config.slow_after_s - self._config.give_way_after_s
                timers.append(loop.call_later(left_s, self._slots.mark_slow, slot))

        timers = [loop.call_later(self._config.give_way_after_s, give_way)]
        if not environment.in_namespaces:  # there the scratch is a tmpfs with a size of its own
            timers.append(
                loop.call_later(
                    _DISK_CHECK_S, self._spawn, self._watch_disk, environment, call, slot
                )
            )

        def stop(_: asyncio.Future[None]) -> None:
            for timer in timers:
                timer.cancel()

        call.gone.add_done_callback(stop)

    async def _watch_disk(self, environment: Environment, call: Call, slot: int) -> None:
        limit = self._config.disk_bytes
        while not call.gone.done():
            try:
                used = await asyncio.to_thread(
                    scratch.usage_bytes,
                    environment.scratch_fd(slot),
                    limit,
                    self._config.disk_files,
                )
            except IndexError:
                return
            except OSError as error:
                if not is_shortage(error):
                    return
                used = 0  # not known this time
            if used > limit:
                call.stop(
                    "disk",
                    "output",
                    f"used more than {limit} bytes or {self._config.disk_files} files of scratch",
                )
            await asyncio.wait({call.gone}, timeout=_DISK_CHECK_S)

    def _spawn(
        self,
        function: Callable[P, Coroutine[object, object, None]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> None:
        task = asyncio.get_running_loop().create_task(function(*args, **kwargs))
        self._cleaning.add(task)
        task.add_done_callback(self._cleaning.discard)

    def _count_kill(self, reason: Reason) -> None:
        self._kills[reason] += 1

    async def close(self) -> None:
        """Kill what runs, end every zygote, remove every file; calls in flight are unavailable."""
        self._closed = True
        for environment in self._environments.values():
            await environment.close()
        if self._live:
            await asyncio.wait({call.gone for call in self._live}, timeout=5)
        for task in list(self._cleaning):
            task.cancel()
        await asyncio.gather(*self._cleaning, return_exceptions=True)


def unknown_image(image_tag: str, known: tuple[str, ...]) -> Finding:
    """Return the finding for an ``image_tag`` that is not installed."""
    message = f"unknown image_tag {image_tag!r}; known: {', '.join(known) or 'none'}"
    return Finding(pointer="/image_tag", message=message, code="unknown_image_tag")


def seed_of(config: SandboxConfig, source: bytes, payload: bytes) -> bytes | None:
    """Return the 16 bytes that seed a call, from source and payload; None for fresh ones."""
    return (
        hashlib.sha256(source + b"\0" + payload).digest()[:16] if config.seeds == "fixed" else None
    )


def encoded(source: str, max_bytes: int) -> bytes:
    """Return ``source`` in UTF-8.

    Raises:
        DefinitionError: It is too long, or not text.
    """
    try:
        found = source.encode()
    except UnicodeEncodeError as error:
        finding = Finding(
            pointer="/source",
            message=f"source is not valid Unicode: {error.reason}",
            code="invalid_source",
        )
        raise DefinitionError([finding]) from error
    if len(found) > max_bytes:
        message = f"source has {len(found)} bytes; at most {max_bytes} are allowed"
        raise DefinitionError([Finding(pointer="/source", message=message, code="source_too_long")])
    return found


def with_hint(details: str, available: frozenset[str]) -> str:
    """Return ``details``, saying so when a package is missing that the full image would have."""
    missing = _MISSING_MODULE.search(details)
    if missing and missing[1] in known_packages() and missing[1] not in available:
        return f"{details} (not in this installation's package set; the full image has it)"
    return details
