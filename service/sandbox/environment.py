"""One grader image at work: its base zygote, its tiers, its compiled sources."""

from __future__ import annotations

import asyncio
import contextlib
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
from service.sandbox.calls import Call, cpu_seconds, sealed
from service.sandbox.guest import boot_code
from service.sandbox.guest.warmups import PACKAGES
from service.sandbox.problems import ZygoteLostError, shortage_of
from service.sandbox.programs import Programs
from service.sandbox.zygotes import BaseLink, TierLink, bits_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from service.sandbox.calls import Reason
    from service.sandbox.config import SandboxConfig
    from service.sandbox.programs import Program

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
_NOTICE_S = 0.02
_LANDLOCK_ABI = 7


class Environment:
    """Runs calls in one image; the zygotes behind it may die and are then started again.

    Attributes:
        facts: What the base zygote said about itself.
        notes: Layers that did not start, with reasons.
        restarts: Zygotes that were lost.
        slots: How many calls may have a scratch directory at once.
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
        self.slots = slots
        self._on_kill = on_kill
        self._base: BaseLink | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._tiers: OrderedDict[int, TierLink] = OrderedDict()
        self._starting = asyncio.Lock()
        self._ids = count(1)
        self._programs = Programs(
            config, slot=slots, tier=lambda: self.tier(0), ids=self._ids, on_kill=on_kill
        )
        self._directory = ""
        self._scratch: list[int] = []
        self._namespaces = "namespaces" not in config.disabled_layers
        self._proven: dict[str, Any] | None = None
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

        Only the first start may do without: what replaces a zygote that the self-test has attacked
        must stand behind the same layers, or nothing runs.

        Raises:
            ZygoteLostError: It does not start, or not as the one before it.
        """
        async with self._starting:
            if self._closed or (self._base is not None and not self._base.closed):
                return
            if self._base is not None:
                self.restarts += 1
            if self._proven is not None:
                await self._start_again(self._proven)
                return
            try:
                await self._start_base()
            except ZygoteLostError as error:
                if not self._namespaces or shortage_of(error) is not None:
                    raise
                self._namespaces = False
                self.notes.append(f"no namespaces: {error}")
                await self._start_base()
            self._proven = self._layers()

    async def _start_again(self, proven: dict[str, Any]) -> None:
        await self._start_base()
        found = self._layers()
        if found != proven:
            await self._stop_base()
            msg = f"the new base zygote stands behind {found}, the one that was tested {proven}"
            raise ZygoteLostError(msg)

    def _layers(self) -> dict[str, Any]:
        """Return what the base zygote says that the level depends on."""
        kinds = sorted(private_namespaces(self.facts))
        return {name: self.facts[name] for name in ("landlock_abi", "seccomp", "uid")} | {
            "private": kinds
        }

    async def _start_base(self) -> None:
        await self._stop_base()
        parent = self._config.scratch_dir
        if parent is None and not self._namespaces:
            parent = await asyncio.to_thread(scratch.usual_parent, self._config.disk_bytes)
        self._directory = await asyncio.to_thread(
            tempfile.mkdtemp, prefix="gradekeeper-", dir=parent
        )
        os.chmod(self._directory, 0o711)  # noqa: PTH101, S103 - the uid of the graders must get through to its slots
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
                self.facts = await base.ready
            await self._open_scratch(base)
        except (ZygoteLostError, TimeoutError, OSError) as error:
            await self._stop_base()
            raise ZygoteLostError(str(error) or "the base zygote did not start in time") from error
        finally:
            os.close(settings)

    async def _open_scratch(self, base: BaseLink) -> None:
        if self._namespaces:
            self._scratch = base.take_scratch()
            if len(self._scratch) != self.slots + 1:
                msg = f"{len(self._scratch)} of {self.slots + 1} scratch directories arrived"
                raise ZygoteLostError(msg)
        else:
            self._scratch = await asyncio.to_thread(self._make_scratch)

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
            "first_cpu": config.first_cpu,
            "max_output_bytes": config.max_output_bytes,
            "max_processes": config.max_processes,
            "max_threads": config.max_threads,
            "slots": self.slots + 1,
            "uid": config.uid,
            "gid": config.gid,
        }

    def _make_scratch(self) -> list[int]:
        uid, gid = int(self.facts["uid"]), int(self.facts["gid"])
        opened = []
        for name in (*map(str, range(self.slots + 1)), "zygote"):
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
        # Taken before anything is awaited: two may stop it at once.
        process, self._process = self._process, None
        opened, self._scratch = self._scratch, []
        directory, self._directory = self._directory, ""
        if process is not None:
            await asyncio.to_thread(_end, process)
        for fd in opened:
            if not self._namespaces:
                with contextlib.suppress(OSError):
                    await asyncio.to_thread(scratch.wipe, fd)
            os.close(fd)
        if directory:
            await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)

    async def close(self) -> None:
        """End every process and remove every file."""
        self._closed = True
        self._programs.close()
        await self._stop_base()

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
        tier.awaited += 1
        try:
            async with asyncio.timeout(_TIER_READY_S):
                facts = await asyncio.shield(tier.ready)
            tier.memory_bytes = int(facts["rss_bytes"])
            self._evict()
        except TimeoutError as error:
            tier.close()
            msg = (
                f"packages {', '.join(tier.packages)} were not imported within {_TIER_READY_S:g} s"
            )
            raise ZygoteLostError(msg) from error
        except ZygoteLostError:
            tier.close()
            raise
        finally:
            tier.awaited -= 1

    def _evict(self) -> None:
        for bits, tier in list(self._tiers.items()):
            if len(self._tiers) <= self._config.max_tiers:
                return
            if not tier.calls and not tier.awaited and tier.ready.done():
                tier.close()
                del self._tiers[bits]

    async def program(self, source: bytes) -> Program:
        """Return ``source`` compiled.

        Raises:
            ZygoteLostError: It could not be compiled for a reason of the sandbox's own.
        """
        return await self._programs.get(source)

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


def private_namespaces(facts: dict[str, Any]) -> set[str]:
    """Return the kinds of namespaces that are not ours, from what a base zygote says of its own."""
    found = set()
    for name, inode in facts["namespaces"].items():
        try:
            ours = os.stat(f"/proc/self/ns/{name}").st_ino  # noqa: PTH116 - one number, no path object needed
        except OSError:
            continue
        if ours != inode:
            found.add(name)
    return found


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
