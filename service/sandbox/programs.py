"""Compiled sources of one image: each is compiled once, in a sandboxed child like any call."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections import OrderedDict
from typing import TYPE_CHECKING

import msgspec

from service.sandbox.calls import Call, Finished, cpu_seconds, sealed
from service.sandbox.problems import ZygoteLostError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from service.sandbox.calls import Reason
    from service.sandbox.config import SandboxConfig
    from service.sandbox.zygotes import TierLink

_COMPILE_S = 20.0
_TOO_SLOW_FOR_S = 60.0
_MAX_PROGRAMS = 128
_MAX_PROGRAM_BYTES = 16 << 20


class Program:
    """A compiled source, or why it does not compile.

    Attributes:
        failure: What to answer instead of running it.
        names: Top-level names that it imports.
        fd: Memfd with the code object and the source; -1 with ``failure``.
    """

    def __init__(self, failure: Finished | None, names: frozenset[str], code: bytes) -> None:
        """Keep the outcome; ``code`` goes into a memfd that lives as long as this object."""
        self.fd = -1
        self.failure = failure
        self.names = names
        if not failure:
            self.fd = sealed(code)

    def __del__(self) -> None:
        """Close the memfd: calls that still run have their own copy of the descriptor."""
        if self.fd >= 0:
            os.close(self.fd)


class _Compiling:
    """A compilation under way, and how many wait for it."""

    def __init__(self, task: asyncio.Task[Program]) -> None:
        self.task = task
        self.waiting = 0


class Programs:
    """The cache of programs, and the compilations under way."""

    def __init__(
        self,
        config: SandboxConfig,
        *,
        slot: int,
        tier: Callable[[], Awaitable[TierLink]],
        ids: Iterator[int],
        on_kill: Callable[[Reason], None],
    ) -> None:
        """Prepare.

        Args:
            config: How graders are run.
            slot: Scratch that compilers get, which write nothing.
            tier: Gives the tier that forks compilers.
            ids: Numbers of calls.
            on_kill: Told why a compiler was killed.
        """
        self._config = config
        self._slot = slot
        self._tier = tier
        self._ids = ids
        self._on_kill = on_kill
        self._known: OrderedDict[bytes, Program] = OrderedDict()
        self._compiling: dict[bytes, _Compiling] = {}

    async def get(self, source: bytes) -> Program:
        """Return ``source`` compiled, from the cache when it has been seen before.

        A compilation that nobody waits for any more is killed.

        Raises:
            ZygoteLostError: It could not be compiled for a reason of the sandbox's own.
        """
        key = hashlib.sha256(source).digest()
        known = self._known.get(key)
        if known is not None:
            self._known.move_to_end(key)
            return known
        under_way = self._compiling.get(key)
        if under_way is None:
            task = asyncio.get_running_loop().create_task(self._compile(key, source))
            under_way = self._compiling[key] = _Compiling(task)
        under_way.waiting += 1
        try:
            return await asyncio.shield(under_way.task)
        except asyncio.CancelledError:
            waiter = asyncio.current_task()
            if under_way.task.cancelled() and not (waiter and waiter.cancelling()):
                msg = "the sandbox is closed"
                raise ZygoteLostError(msg) from None
            raise
        finally:
            under_way.waiting -= 1
            if not under_way.waiting:
                self._compiling.pop(key)
                under_way.task.cancel()

    async def _compile(self, key: bytes, source: bytes) -> Program:
        tier = await self._tier()
        fd = sealed(source)
        try:
            call = Call(
                next(self._ids),
                timeout_s=min(_COMPILE_S, self._config.timeout_s),
                memory_bytes=self._config.memory_bytes,
                max_frame_bytes=_MAX_PROGRAM_BYTES,
                on_kill=self._on_kill,
            )
            cpu_s = cpu_seconds(_COMPILE_S, 1)
            tier.begin(call, slot=self._slot, cpu_s=cpu_s, seed=None, fds=(fd,))
        finally:
            os.close(fd)
        loop = asyncio.get_running_loop()
        way = loop.call_later(self._config.give_way_after_s, tier.give_way, call)
        try:
            finished = await call.result
        finally:
            way.cancel()
            call.kill("cancelled")
        return self._keep(key, finished)

    def _keep(self, key: bytes, finished: Finished) -> Program:
        if finished.outcome == "value":
            program = Program(None, frozenset(finished.details.split(",")), finished.stdout)
        else:
            if finished.outcome == "timeout":
                details = f"compiling {finished.details}"
                finished = msgspec.structs.replace(finished, details=details)
            program = Program(finished, frozenset(), b"")
        if finished.outcome in ("value", "exception", "timeout"):  # the others may be chance
            self._known[key] = program
            if len(self._known) > _MAX_PROGRAMS:
                self._known.popitem(last=False)
        if finished.outcome == "timeout":  # so may this, but each attempt costs a CPU for long
            asyncio.get_running_loop().call_later(_TOO_SLOW_FOR_S, self._known.pop, key, None)
        return program

    def close(self) -> None:
        """Forget everything; who waits gets a `ZygoteLostError`."""
        for under_way in list(self._compiling.values()):
            under_way.task.cancel()
        self._known.clear()
