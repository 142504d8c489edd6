"""Many mixed calls of Python graders (good, raising, ending, killed): what is left of them.

Not among the suites that run by default: ``python -m tests.bench --suite soak`` takes minutes.
"""

from __future__ import annotations

import asyncio
import gc
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec
import uvloop

from service.sandbox import SubprocessSandbox
from tests.attacks.driver import children
from tests.bench.rows import Row, at_most
from tests.bench.sandbox import FOREVER, FUZZY, TRIVIAL, call, started
from tests.sandbox import image

CALLS = 20_000
_RAISING = "def grade(sample, item):\n    raise ValueError('no')\n"
_ENDING = (
    "import os\ndef grade(sample, item):\n"
    "    open('left', 'w').write('x' * 1000)\n    os._exit(1)\n"
)
_LITTERING = (
    "def grade(sample, item):\n    open('left', 'w').write('x' * 1000)\n"
    "    while True:\n        pass\n"
)
_TIMEOUT_S = 0.1
_AT_ONCE = 8
_KILL_EVERY = 50


class State(msgspec.Struct, frozen=True):
    """What this process and its children hold."""

    processes: int
    descriptors: int
    files: int
    memory_bytes: int


def run(rounds: int) -> list[Row]:
    """Return the growth of everything that could leak."""
    with tempfile.TemporaryDirectory() as folder:
        before, after = uvloop.run(_soaked(CALLS, folder))
    what = f"{CALLS:,} mixed Python calls"
    return [
        at_most(0, f"{what}: processes left", [after.processes - before.processes]),
        at_most(0, f"{what}: descriptors left", [after.descriptors - before.descriptors]),
        at_most(0, f"{what}: files left", [after.files - before.files]),
        at_most(5, f"{what}: more memory", [growth(before, after) * 100], "%"),
    ]


def growth(before: State, after: State) -> float:
    """Return by how much memory grew, as a fraction."""
    return after.memory_bytes / before.memory_bytes - 1


async def _soaked(calls: int, folder: str) -> tuple[State, State]:
    sandbox = await started(scratch_dir=folder)  # type: ignore[arg-type]
    try:
        return await soak(sandbox, calls, lambda: state(folder, sandbox))
    finally:
        await sandbox.close()


async def soak(
    sandbox: SubprocessSandbox, calls: int, look: Callable[[], State]
) -> tuple[State, State]:
    """Make ``calls`` mixed calls, a few at once; return the state before and after.

    A tenth as many go first, unmeasured: caches fill and the allocator settles.
    """
    await _some(sandbox, calls // 10)
    before = look()
    await _some(sandbox, calls)
    return before, look()


async def _some(sandbox: SubprocessSandbox, count: int) -> None:
    fuzzy = FUZZY if image.is_full() else TRIVIAL
    sources = [TRIVIAL] * 12 + [_RAISING] * 3 + [_ENDING] * 3 + [fuzzy] * 2
    width = asyncio.Semaphore(_AT_ONCE)

    async def one(index: int) -> None:
        async with width:
            if index % _KILL_EVERY == _KILL_EVERY // 2:
                (environment,) = sandbox.environments
                killed = await sandbox.attack(environment, _LITTERING, _TIMEOUT_S)
                assert killed.outcome == "timeout", killed
            elif index % _KILL_EVERY == _KILL_EVERY - 1:
                task = asyncio.create_task(sandbox.run(call(FOREVER)))
                await asyncio.sleep(0.01)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            else:
                await sandbox.run(call(f"{sources[index % len(sources)]}# {index % 300}\n"))

    for start in range(0, count, 500):
        await asyncio.gather(*(one(index) for index in range(start, min(start + 500, count))))
    while sandbox.stats().running:  # noqa: ASYNC110 - what is looked at belongs to other processes
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.3)  # compilers are not counted, and are reaped a moment later


def state(folder: str, sandbox: SubprocessSandbox) -> State:
    """Return what this process and its children hold, with files beneath ``folder``.

    In namespaces the scratch directories show in nobody's file system: they are looked into where
    the sandbox has them open.
    """
    gc.collect()
    family = children(os.getpid())
    pages = 0
    for pid in (os.getpid(), *family):
        resident, shared = Path(f"/proc/{pid}/statm").read_text().split()[1:3]
        pages += int(resident) - int(shared)
    return State(
        processes=len(family),
        descriptors=sum(1 for _ in Path("/proc/self/fd").iterdir()),
        files=sum(len(names) for _, _, names in os.walk(folder)) + _in_scratch(sandbox),
        memory_bytes=pages * os.sysconf("SC_PAGE_SIZE"),
    )


def _in_scratch(sandbox: SubprocessSandbox) -> int:
    return sum(
        len(os.listdir(environment.scratch_fd(slot)))  # noqa: PTH208 - a descriptor
        for environment in sandbox.environments
        if environment.in_namespaces
        for slot in range(environment.slots)
    )
