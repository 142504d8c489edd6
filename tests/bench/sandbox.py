"""Python graders: the sandbox against a fresh interpreter a call; one endless row in a batch."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import statistics
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import uvloop

from graders.ports import SandboxResult, SandboxRun
from service.sandbox import SandboxConfig, SubprocessSandbox, start_sandbox
from tests.attacks.driver import children
from tests.bench.rows import Row, at_least, at_most, figure, ratios
from tests.bench.servers import cores
from tests.sandbox import image

TRIVIAL = "def grade(sample, item):\n    return 0.5\n"
FUZZY = (
    "import numpy as np\nfrom rapidfuzz import fuzz\n\ndef grade(sample, item):\n"
    "    ratio = fuzz.WRatio(sample['output_text'], item['reference_answer']) / 100\n"
    "    return float(np.mean([ratio, 1.0]))\n"
)
FOREVER = "def grade(sample, item):\n    while True:\n        pass\n"
_PAYLOAD = json.dumps(
    {
        "sample": {"output_text": "a quick brown fox " * 20},
        "item": {"reference_answer": "the quick brown cat " * 18},
    }
)
_FRESH = (
    "import json, sys\nsource, payload = json.load(sys.stdin)\nspace = {}\n"
    "exec(compile(source, 'grader', 'exec'), space)\ncall = json.loads(payload)\n"
    "print(float(space['grade'](call['sample'], call['item'])))\n"
)
# Turns are short, so that what else the machine does hits both sides of a ratio.
_TURNS = 12
_BATCH = 1024
_DEADLINE_S = 3.0


class Cost(msgspec.Struct, frozen=True):
    """What one way of calling cost: CPU and wall seconds a call, one value a turn."""

    cpu_s: list[float]
    wall_s: list[float]


def run(rounds: int) -> list[Row]:
    """Compare calls on one core with fresh interpreters, then batches on all of them."""
    everything = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cores()[0]})
    try:
        found = uvloop.run(_compared(rounds))
        os.sched_setaffinity(0, set(cores()))
        return [*found, *uvloop.run(_batches(rounds))]
    finally:
        os.sched_setaffinity(0, everything)


async def started(**changes: float) -> SubprocessSandbox:
    """Return a sandbox with isolation.

    Raises:
        RuntimeError: There is none to measure here.
    """
    config = SandboxConfig(images={image.TAG: image.built()}, **changes)  # type: ignore[arg-type]
    sandbox = await start_sandbox(config)
    if not isinstance(sandbox, SubprocessSandbox):
        msg = "there is no isolation to measure here"
        raise RuntimeError(msg)  # noqa: TRY004 - nobody passed a wrong type
    return sandbox


def call(source: str) -> SandboxRun:
    """Return a run of ``source``."""
    return SandboxRun(source=source, image_tag=image.TAG, payload=_PAYLOAD.encode())


async def _compared(rounds: int) -> list[Row]:
    sandbox = await started()
    rows = []
    try:
        graders = {"trivial": (TRIVIAL, 7.0, 3.0, 6), "numpy + rapidfuzz": (FUZZY, 15.0, 6.0, 2)}
        for name, (source, bar, bar_ms, fresh_calls) in graders.items():
            if name != "trivial" and not image.is_full():
                continue
            fresh, own = Cost([], []), Cost([], [])
            for _ in range(5):
                await sandbox.run(call(source))
            for _ in range(rounds * _TURNS):
                _fresh(source, fresh_calls, fresh)
                await _warm(sandbox, source, 60, own)
            rows += _rows(name, fresh, own, bar, bar_ms)
    finally:
        await sandbox.close()
    return rows


def _rows(name: str, fresh: Cost, own: Cost, bar: float, bar_ms: float) -> list[Row]:
    what = f"{name} Python grader"
    return [
        at_least(bar, f"{what}: CPU of a fresh python -I / own", ratios(fresh.cpu_s, own.cpu_s)),
        at_most(bar_ms, f"{what}: median wait", [s * 1e3 for s in own.wall_s], "ms"),
        figure(f"{what}: fresh python -I, median wait", [s * 1e3 for s in fresh.wall_s], "ms"),
        figure(f"{what}: calls a core-second", [1 / s for s in own.cpu_s]),
    ]


def _fresh(source: str, count: int, cost: Cost) -> None:
    request = json.dumps([source, _PAYLOAD])
    taken = []
    before = _own_cpu_s()
    for _ in range(count):
        begun = time.perf_counter()
        command = [image.built(), "-I", "-c", _FRESH]
        subprocess.run(command, input=request, capture_output=True, text=True, check=True)
        taken.append(time.perf_counter() - begun)
    cost.cpu_s.append((_own_cpu_s() - before) / count)
    cost.wall_s.append(statistics.median(taken))


def _own_cpu_s() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


async def _warm(sandbox: SubprocessSandbox, source: str, count: int, cost: Cost) -> None:
    taken = []
    before = _family_cpu_s()
    for _ in range(count):
        begun = time.perf_counter()
        result = await sandbox.run(call(source))
        taken.append(time.perf_counter() - begun)
        if result.outcome != "value":
            raise RuntimeError(f"{result.outcome}: {result.details}")
    await asyncio.sleep(0.01)  # the last leaf is still being reaped
    cost.cpu_s.append((_family_cpu_s() - before) / count)
    cost.wall_s.append(statistics.median(taken))


def _family_cpu_s() -> float:
    """Return CPU seconds of this process, the zygotes, and every leaf they have reaped."""
    own = resource.getrusage(resource.RUSAGE_SELF)
    ticks = 0
    for pid in children(os.getpid()):
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        ticks += sum(map(int, fields[11:15]))
    return own.ru_utime + own.ru_stime + ticks / os.sysconf("SC_CLK_TCK")


async def _batches(rounds: int) -> list[Row]:
    sandbox = await started(timeout_s=_DEADLINE_S)
    plain_s, beside_s, late_ms = [], [], []
    try:
        await sandbox.run(call(TRIVIAL))
        for _ in range(2 * rounds):
            begun = time.perf_counter()
            _check(await asyncio.gather(*(sandbox.run(call(TRIVIAL)) for _ in range(_BATCH - 1))))
            plain_s.append(time.perf_counter() - begun)
            begun = time.perf_counter()
            endless = asyncio.create_task(sandbox.run(call(FOREVER)))
            others = [asyncio.create_task(sandbox.run(call(TRIVIAL))) for _ in range(_BATCH - 1)]
            _check(await asyncio.gather(*others))
            beside_s.append(time.perf_counter() - begun)
            killed = await endless
            if killed.outcome != "timeout":
                raise RuntimeError(f"the endless row ended as {killed.outcome}")
            late_ms.append((killed.execution_time_s - _DEADLINE_S) * 1e3)
    finally:
        await sandbox.close()
    what = f"batch of {_BATCH:,} trivial Python graders"
    return [
        at_most(1.15, f"{what}, one endless: the others / without it", ratios(beside_s, plain_s)),
        at_most(100, f"{what}: endless one killed after its deadline", late_ms, "ms"),
        figure(f"{what}: without it", plain_s, "s"),
    ]


def _check(results: Sequence[SandboxResult]) -> None:
    wrong = [result for result in results if result.value != 0.5]
    if wrong:
        raise RuntimeError(f"{len(wrong)} rows went wrong, first {wrong[0]}")
