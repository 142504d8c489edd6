"""The sandbox: admission, one retry for what is not the grader's fault, results and counters."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import os
import re
import time
from collections import Counter
from typing import TYPE_CHECKING, ParamSpec

import msgspec

from graders.errors import DefinitionError, Finding, OverloadedError, SandboxUnavailableError
from graders.ports import SandboxResult, SandboxRun
from service.sandbox import scratch
from service.sandbox.config import (
    IsolationReport,
    RunTerms,
    SandboxConfig,
    SandboxStats,
    Seeds,
    TierStats,
)
from service.sandbox.environment import Environment, known_packages
from service.sandbox.problems import ZygoteLostError, shortage_of
from service.sandbox.slots import Slots, Turn

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from service.sandbox.calls import Call, Finished, Reason

P = ParamSpec("P")

_RETRY_AFTER_S = 0.1
_DISK_CHECK_S = 0.2
_MAX_ASTRAY = 10  # measurements in a row that the grader has led astray
_MEASURED_AT_ONCE = 4
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
        self._measuring = asyncio.Semaphore(_MEASURED_AT_ONCE)
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

    async def run(self, run: SandboxRun, terms: RunTerms | None = None) -> SandboxResult:
        """Return what the grader did with this payload, under ``terms`` where those are stricter.

        Raises:
            SandboxUnavailableError: User code was not run to an end, twice, for a reason of the
                sandbox's own.
            OverloadedError: The bounded queue is full.
            DefinitionError: Unknown image tag, or a source that is too long.
        """
        environment = self.environment(run.image_tag)
        source = encoded(run.source, self._config.max_source_bytes)
        try:
            result = await self._admit(environment, source, run.payload, self._terms(terms))
        except OverloadedError:
            self._calls["overloaded"] += 1
            raise
        except SandboxUnavailableError:
            self._calls["unavailable"] += 1
            raise
        except asyncio.CancelledError:
            self._calls["cancelled"] += 1
            raise
        self._calls[result.outcome] += 1
        return result

    def _terms(self, terms: RunTerms | None) -> RunTerms:
        config = self._config
        return (terms or RunTerms(timeout_s=config.timeout_s)).within(config)

    async def _admit(
        self, environment: Environment, source: bytes, payload: bytes, terms: RunTerms
    ) -> SandboxResult:
        if self._closed:
            msg = "the sandbox is closed"
            raise SandboxUnavailableError(msg, kind="closed")
        queued = time.monotonic()
        slot = await self._slots.acquire(hash(source))
        self._queue_s += time.monotonic() - queued
        try:
            return await self._run_in_slot(environment, source, payload, slot, terms)
        except ZygoteLostError:
            # Nothing could be forked, perhaps: who takes every thread there is, is found soon.
            await asyncio.sleep(_RETRY_AFTER_S)
        # The first slot is being cleaned; whatever happened to the zygote may not happen again.
        slot = await self._slots.acquire(hash(source))
        return await self._run_in_slot(environment, source, payload, slot, terms)

    async def attack(
        self, environment: Environment, source: str, timeout_s: float
    ) -> SandboxResult:
        """Run a canary of the self-test, as `run` would run it, without counting it."""
        terms = RunTerms(timeout_s=timeout_s, seeds=self._config.seeds)
        return await self._admit(environment, source.encode(), b'{"sample":{},"item":{}}', terms)

    async def _run_in_slot(
        self, environment: Environment, source: bytes, payload: bytes, slot: int, terms: RunTerms
    ) -> SandboxResult:
        call: Call | None = None
        started = time.monotonic()
        turn = Turn(
            self._slots,
            slot,
            give_way_after_s=self._config.give_way_after_s,
            slow_after_s=self._config.slow_after_s,
        )
        try:
            program = await environment.program(source)
            if program.failure is not None:
                return self._result(environment, program.failure, 0.0)
            tier = await environment.tier(environment.bits(program.names))
            seed = seed_of(terms.seeds, source, payload)
            started = time.monotonic()
            call = environment.begin(
                tier, program, payload, slot=slot, seed=seed, timeout_s=terms.timeout_s
            )
            self._live.add(call)
            turn.begin(functools.partial(tier.give_way, call))
            self._watch(environment, call, slot)
            finished = await call.result
            return self._result(environment, finished, time.monotonic() - started)
        except OSError as error:  # no descriptor, no memory, no place for files
            msg = f"the sandbox has run out of something: {error}"
            raise ZygoteLostError(msg) from error
        finally:
            if call is None:
                turn.end()
                self._slots.release(slot, held_s=None)
            else:
                call.kill("cancelled")
                call.gone.add_done_callback(lambda _: turn.end())
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
            except (OSError, IndexError) as error:
                # The zygotes were restarted, and their directories with them; or nobody could look.
                if shortage_of(error) is None:
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

    def _watch(self, environment: Environment, call: Call, slot: int) -> None:
        if environment.in_namespaces:  # there the scratch is a tmpfs with a size of its own
            return
        timer = asyncio.get_running_loop().call_later(
            _DISK_CHECK_S, self._spawn, self._watch_disk, environment, call, slot
        )
        call.gone.add_done_callback(lambda _: timer.cancel())

    async def _watch_disk(self, environment: Environment, call: Call, slot: int) -> None:
        limit, files = self._config.disk_bytes, self._config.disk_files
        astray = 0
        while not call.gone.done():
            try:
                async with self._measuring:
                    used, whole = await asyncio.to_thread(
                        scratch.usage, environment.scratch_fd(slot), limit, files
                    )
            except (OSError, IndexError) as error:
                if shortage_of(error) is None:
                    return
                used, whole = 0, False
            astray = 0 if whole else astray + 1
            if used + call.held_bytes > limit or astray > _MAX_ASTRAY:
                call.stop(
                    "disk", "output", f"used more than {limit} bytes or {files} files of scratch"
                )
            # What does not let itself be measured is not given the time to grow.
            pause_s = _DISK_CHECK_S if whole else _DISK_CHECK_S / _MAX_ASTRAY
            await asyncio.wait({call.gone}, timeout=pause_s)

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


def seed_of(seeds: Seeds, source: bytes, payload: bytes) -> bytes | None:
    """Return the 16 bytes that seed a call, from source and payload; None for fresh ones."""
    if seeds == "fresh":
        return None
    return hashlib.sha256(source + b"\0" + canonical(payload)).digest()[:16]


def canonical(payload: bytes) -> bytes:
    """Return ``payload`` with the keys of its objects in order, whatever order they came in."""
    try:
        return msgspec.json.encode(msgspec.json.decode(payload), order="sorted")
    except (msgspec.DecodeError, RecursionError):
        return payload


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
