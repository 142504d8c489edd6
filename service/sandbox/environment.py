"""One grader image at work: its base zygote, its tiers, its compiled sources."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import shutil
import socket
import subprocess
import tempfile
from collections import OrderedDict
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from service.sandbox import scratch
from service.sandbox.calls import Call, Finished, cpu_seconds, sealed
from service.sandbox.guest import boot_code
from service.sandbox.guest.warmups import PACKAGES
from service.sandbox.problems import ZygoteLostError, is_shortage
from service.sandbox.zygotes import BaseLink, TierLink, bits_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from service.sandbox.calls import Reason
    from service.sandbox.config import SandboxConfig

# One BLAS thread: a zygote with threads cannot be forked safely. Fixed hash seed: replicas agree
# on set order.
ENVIRONMENT = {
    "LANG": "C.UTF-8",
    "PATH": "/usr/bin:/bin",
    "PYTHONHASHSEED": "0",
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "2",
}

_BASE_READY_S = 30.0
_TIER_READY_S = 120.0
_COMPILE_S = 20.0
_NOTICE_S = 0.02
_MAX_PROGRAMS = 128
_MAX_PROGRAM_BYTES = 16 << 20
_LANDLOCK_ABI = 7


class Program:
    """A compiled source, or why it does not compile.

    Attributes:
        failure: What to answer instead of running it.
        bits: Package set of the tier that should run it.
        fd: Memfd with the code object and the source; -1 with ``failure``.
    """

    def __init__(self, failure: Finished | None, bits: int, code: bytes) -> None:
        """Keep the outcome; ``code`` goes into a memfd that lives as long as this object."""
        self.failure = failure
        self.bits = bits
        self.fd = -1 if failure else sealed(code)

    def __del__(self) -> None:
        """Close the memfd: calls that still run have their own copy of the descriptor."""
        if self.fd >= 0:
            os.close(self.fd)


class Environment:
    """Runs calls in one image; the zygotes behind it may die and are then started again.

    Attributes:
        facts: What the base zygote said about itself.
        notes: Layers that did not start, with reasons.
        restarts: Zygotes that were lost.
    """

    def __init__(
        self,
        tag: str,
        interpreter: str,
        config: SandboxConfig,
        *,
        slots: int,
        on_kill: Callable[[Reason], None],
    ) -> None:
        """Prepare; nothing runs before `start`."""
        self.tag = tag
        self.facts: dict[str, Any] = {}
        self.notes: list[str] = []
        self.restarts = 0
        self._interpreter = interpreter
        self._config = config
        self._slots = slots
        self._on_kill = on_kill
        self._base: BaseLink | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._tiers: OrderedDict[int, TierLink] = OrderedDict()
        self._programs: OrderedDict[bytes, Program] = OrderedDict()
        self._compiling: dict[bytes, asyncio.Task[Program]] = {}
        self._starting = asyncio.Lock()
        self._ids = count(1)
        self._directory = ""
        self._scratch: list[int] = []
        self._namespaces = "namespaces" not in config.disabled_layers
        self._closed = False

    @property
    def available(self) -> frozenset[str]:
        """Known packages that this image has."""
        return frozenset(self.facts.get("packages", ()))

    @property
    def tiers(self) -> tuple[TierLink, ...]:
        """Tiers that are alive."""
        return tuple(tier for tier in self._tiers.values() if not tier.closed)

    @property
    def in_namespaces(self) -> bool:
        """Whether the zygotes have a mount namespace of their own."""
        return self._namespaces

    async def start(self) -> None:
        """Start the base zygote if it is not running, without namespaces where those are refused.

        Raises:
            ZygoteLostError: It does not start at all.
            OSError: The system lacks descriptors, memory or disk.
        """
        async with self._starting:
            if self._closed or (self._base is not None and not self._base.closed):
                return
            if self._base is not None:
                self.restarts += 1
            if self._namespaces:
                try:
                    await self._start_base()
                except ZygoteLostError as error:
                    if self.facts:  # what was tested is what runs: never with less than at first
                        raise
                    self._namespaces = False
                    self.notes.append(f"no namespaces: {error}")
                else:
                    return
            await self._start_base()

    async def _start_base(self) -> None:
        await self._stop_base()
        try:
            self._directory = await asyncio.to_thread(self._make_directory)
        except OSError as error:
            if is_shortage(error):
                raise
            raise ZygoteLostError(f"no directory for scratch: {error.strerror}") from error
        settings = sealed(json.dumps(self._settings()).encode())
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except OSError:
            os.close(settings)
            raise
        base = BaseLink(ours)
        self._base = base
        try:
            try:
                self._process = await asyncio.to_thread(self._execute, theirs.fileno(), settings)
            finally:
                theirs.close()
            async with asyncio.timeout(_BASE_READY_S):
                self.facts, fds = await base.ready
        except (ZygoteLostError, TimeoutError, OSError) as error:
            await self._stop_base()
            if is_shortage(error):
                raise
            raise ZygoteLostError(str(error) or "the base zygote did not start in time") from error
        finally:
            os.close(settings)
        self._scratch = fds or await asyncio.to_thread(self._make_scratch)

    def _make_directory(self) -> str:
        parent = self._config.scratch_dir
        if parent is None and not self._namespaces:
            parent = scratch.usual_parent(self._config.disk_bytes)
        directory = tempfile.mkdtemp(prefix="gradekeeper-", dir=parent)
        os.chmod(directory, 0o711)  # noqa: PTH101, S103 - the uid of the graders must get through to its slots
        return directory

    def _execute(self, control: int, settings: int) -> subprocess.Popen[bytes]:
        code = boot_code("base", control, settings)
        environment = ENVIRONMENT | {
            "NLTK_DATA": str(Path(self._interpreter).parent.parent / "nltk_data")
        }
        # Not -I alone: that would ignore PYTHONHASHSEED. -s -P and no PYTHONPATH give the same
        # isolation.
        return subprocess.Popen(  # noqa: S603 - our own interpreter with our own words
            [self._interpreter, "-s", "-P", "-B", "-X", "utf8", "-c", code],
            env=environment,
            cwd="/",
            pass_fds=(control, settings),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def _settings(self) -> dict[str, object]:
        config = self._config
        return {
            "scratch_root": self._directory,
            "root_base": self._directory,
            "read_paths": [],
            "namespaces": self._namespaces,
            "landlock_abi": 0 if "landlock" in config.disabled_layers else _LANDLOCK_ABI,
            "seccomp": "seccomp" not in config.disabled_layers,
            "profile": config.profile,
            "memory_bytes": config.memory_bytes,
            "disk_bytes": config.disk_bytes,
            "disk_files": config.disk_files,
            "open_files": config.open_files,
            "cores": config.cores,
            "max_output_bytes": config.max_output_bytes,
            "max_processes": config.max_processes,
            "slots": self._slots + 1,
            "uid": config.uid,
            "gid": config.gid,
        }

    def _make_scratch(self) -> list[int]:
        uid, gid = int(self.facts["uid"]), int(self.facts["gid"])
        opened = []
        for name in (*map(str, range(self._slots + 1)), "zygote"):
            path = Path(self._directory) / name
            path.mkdir(mode=0o700)
            if os.geteuid() == 0:
                os.chown(path, uid, gid)
            if name != "zygote":
                opened.append(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        return opened

    async def _stop_base(self) -> None:
        for tier in self._tiers.values():
            tier.close()
        self._tiers.clear()
        if self._base is not None:
            self._base.close()
        if self._process is not None:
            await asyncio.to_thread(_end, self._process)
            self._process = None
        for fd in self._scratch:
            if not self._namespaces:
                with contextlib.suppress(OSError):
                    await asyncio.to_thread(scratch.wipe, fd)
            os.close(fd)
        self._scratch = []
        if self._directory:
            await asyncio.to_thread(shutil.rmtree, self._directory, ignore_errors=True)
            self._directory = ""

    async def close(self) -> None:
        """End every process and remove every file."""
        self._closed = True
        for task in list(self._compiling.values()):
            task.cancel()
        await self._stop_base()
        self._programs.clear()

    async def tier(self, bits: int) -> TierLink:
        """Return the tier for ``bits``, ready to fork.

        Raises:
            ZygoteLostError: It does not get ready.
        """
        base = self._base
        try:
            return await self._tier(bits)
        except ZygoteLostError:
            # A base that dies takes its tiers along, and its own end may show a moment later.
            await asyncio.sleep(_NOTICE_S)
            if self._closed or base is None or not base.closed:
                raise
        return await self._tier(bits)

    async def _tier(self, bits: int) -> TierLink:
        found = self._tiers.get(bits)
        if found is None or found.closed:
            if found is not None:
                self.restarts += 1
            await self.start()
            found = self._tiers.get(bits)
            if found is None or found.closed:
                if self._base is None:
                    msg = "the sandbox is closed"
                    raise ZygoteLostError(msg)
                found = self._tiers[bits] = self._base.fork_tier(bits)
        self._tiers.move_to_end(bits)
        if not found.ready.done():
            await self._wait_ready(found)
        elif found.ready.exception() is not None:
            found.close()
            raise ZygoteLostError(str(found.ready.exception()))
        return found

    async def _wait_ready(self, tier: TierLink) -> None:
        try:
            async with asyncio.timeout(_TIER_READY_S):
                facts, _ = await asyncio.shield(tier.ready)
        except TimeoutError as error:
            tier.close()
            msg = (
                f"packages {', '.join(tier.packages)} were not imported within {_TIER_READY_S:g} s"
            )
            raise ZygoteLostError(msg) from error
        except ZygoteLostError:
            tier.close()
            raise
        tier.memory_bytes = int(facts["rss_bytes"])
        self._evict()

    def _evict(self) -> None:
        for bits, tier in list(self._tiers.items()):
            if len(self._tiers) <= self._config.max_tiers:
                return
            if not tier.calls and tier.ready.done():
                tier.close()
                del self._tiers[bits]

    async def program(self, source: bytes) -> Program:
        """Return ``source`` compiled, from the cache when it has been seen before.

        Raises:
            ZygoteLostError: It could not be compiled for a reason of the sandbox's own.
        """
        key = hashlib.sha256(source).digest()
        known = self._programs.get(key)
        if known is not None:
            self._programs.move_to_end(key)
            return known
        task = self._compiling.get(key)
        if task is None:
            task = self._compiling[key] = asyncio.get_running_loop().create_task(
                self._compile(key, source)
            )
            task.add_done_callback(lambda _: self._compiling.pop(key, None))
        return await asyncio.shield(task)

    async def _compile(self, key: bytes, source: bytes) -> Program:
        tier = await self.tier(0)
        fd = sealed(source)
        try:
            call = Call(
                next(self._ids),
                timeout_s=min(_COMPILE_S, self._config.timeout_s),
                memory_bytes=self._config.memory_bytes,
                max_frame_bytes=_MAX_PROGRAM_BYTES,
                on_kill=self._on_kill,
            )
            tier.begin(
                call, slot=self._slots, cpu_s=cpu_seconds(_COMPILE_S, 1), seed=None, fds=(fd,)
            )
        finally:
            os.close(fd)
        try:
            finished = await call.result
        finally:
            call.kill("cancelled")
        if finished.outcome == "value":
            names = frozenset(finished.details.split(","))
            program = Program(None, self.bits(names), finished.stdout)
        else:
            program = Program(finished, 0, b"")
        if finished.outcome in ("value", "exception"):  # the others may be chance
            self._programs[key] = program
            if len(self._programs) > _MAX_PROGRAMS:
                self._programs.popitem(last=False)
        return program

    def begin(  # noqa: PLR0913
        self,
        tier: TierLink,
        program: Program,
        payload: bytes,
        *,
        slot: int,
        seed: bytes | None,
        timeout_s: float,
    ) -> Call:
        """Start one grader call in ``slot``.

        Raises:
            ZygoteLostError: The tier is gone.
        """
        fd = sealed(payload)
        try:
            call = Call(
                next(self._ids),
                timeout_s=timeout_s,
                memory_bytes=self._config.memory_bytes,
                max_frame_bytes=2 * self._config.max_output_bytes + 8192,
                on_kill=self._on_kill,
            )
            cpu_s = cpu_seconds(timeout_s, self._config.cores)
            tier.begin(call, slot=slot, cpu_s=cpu_s, seed=seed, fds=(program.fd, fd))
        finally:
            os.close(fd)
        return call

    def bits(self, names: Sequence[str] | frozenset[str]) -> int:
        """Return the package set for a grader that imports ``names``."""
        return bits_of(names, self.available)

    async def recycle(self) -> None:
        """Throw the zygotes and their directories away; the next call starts new ones."""
        self.restarts += 1
        await self._stop_base()

    def scratch_fd(self, slot: int) -> int:
        """Return the descriptor of the scratch directory of ``slot``."""
        return self._scratch[slot]


def _end(process: subprocess.Popen[bytes]) -> None:
    """Give a base zygote, whose socket is closed, a moment to end; then make it."""
    try:
        process.wait(timeout=2)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def known_packages() -> tuple[str, ...]:
    """Return the import names that select tiers."""
    return PACKAGES
