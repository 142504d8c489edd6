"""Speed and endurance of the sandbox: ``python -m tests.bench.bench_sandbox [--soak CALLS]``.

Every ratio is against a fresh ``python -I`` a call, measured in the same run; CPU is that of this process
and of all zygotes and leaves. Exits 1 when a bar is missed.
"""

import argparse
import asyncio
import gc
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import uvloop

from graders.ports import SandboxRun
from service.sandbox import SandboxConfig, SubprocessSandbox, start_sandbox
from tests.sandbox import image

TRIVIAL = "def grade(sample, item):\n    return 0.5\n"
FUZZY = (
    "import numpy as np\nfrom rapidfuzz import fuzz\n\ndef grade(sample, item):\n"
    "    ratio = fuzz.WRatio(sample['output_text'], item['reference_answer']) / 100\n"
    "    return float(np.mean([ratio, 1.0]))\n"
)
ROUGE = (
    "from rouge_score import rouge_scorer\nimport sympy\n\ndef grade(sample, item):\n"
    "    scorer = rouge_scorer.RougeScorer(['rougeL'], use_stemmer=True)\n"
    "    rouge = scorer.score(sample['output_text'], item['reference_answer'])['rougeL'].fmeasure\n"
    "    x = sympy.Symbol('x')\n    return rouge * float(sympy.simplify(sympy.sin(x) ** 2 + sympy.cos(x) ** 2))\n"
)
FOREVER = "def grade(sample, item):\n    while True:\n        pass\n"
RAISING = "def grade(sample, item):\n    raise ValueError('no')\n"
EXITING = "import os\ndef grade(sample, item):\n    open('left', 'w').write('x' * 1000)\n    os._exit(1)\n"
TEXTS = {
    "sample": {"output_text": "a quick brown fox " * 20},
    "item": {"reference_answer": "the quick brown cat " * 18},
}
PAYLOAD = json.dumps(TEXTS).encode()
FRESH = (
    "import json, sys\nsource, payload = json.load(sys.stdin)\nspace = {}\nexec(compile(source, 'grader', 'exec'), space)\n"
    "call = json.loads(payload)\nprint(float(space['grade'](call['sample'], call['item'])))\n"
)

# Bars: ratio of calls per core-second to a fresh interpreter, and median milliseconds.
BARS = {"trivial": (TRIVIAL, 7.0, 3.0), "numpy+rapidfuzz": (FUZZY, 15.0, 6.0)}


def _call(source: str) -> SandboxRun:
    return SandboxRun(source=source, image_tag=image.TAG, payload=PAYLOAD)


def _family() -> list[int]:
    parents = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                parents[int(name)] = int(
                    Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[1]
                )
            except OSError:
                continue
    found: set[int] = set()
    front = {os.getpid()}
    while front:
        front = {pid for pid, parent in parents.items() if parent in front} - found
        found |= front
    return sorted(found)


def _cpu_s() -> float:
    """Return CPU seconds of this process, the zygotes and every leaf they have reaped."""
    own = resource.getrusage(resource.RUSAGE_SELF)
    ticks = 0
    for pid in _family():
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        ticks += sum(map(int, fields[11:15]))
    return own.ru_utime + own.ru_stime + ticks / os.sysconf("SC_CLK_TCK")


def _fresh(interpreter: str, source: str, count: int) -> tuple[float, float]:
    """Return median milliseconds and calls per core-second of a fresh interpreter a call."""
    request = json.dumps([source, PAYLOAD.decode()])
    own, children = (
        resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    taken = []
    for _ in range(count):
        begun = time.perf_counter()
        subprocess.run(
            [interpreter, "-I", "-c", FRESH],
            input=request,
            capture_output=True,
            text=True,
            check=True,
        )
        taken.append(time.perf_counter() - begun)
    used = 0.0
    for before, who in ((own, resource.RUSAGE_SELF), (children, resource.RUSAGE_CHILDREN)):
        now = resource.getrusage(who)
        used += now.ru_utime + now.ru_stime - before.ru_utime - before.ru_stime
    return statistics.median(taken) * 1e3, count / used


async def _warm(sandbox: SubprocessSandbox, source: str, count: int) -> tuple[float, float]:
    """Return median milliseconds and calls per core-second of the sandbox."""
    for _ in range(5):
        await sandbox.run(_call(source))
    before = _cpu_s()
    taken = []
    for _ in range(count):
        begun = time.perf_counter()
        result = await sandbox.run(_call(source))
        taken.append(time.perf_counter() - begun)
        if result.outcome != "value":
            raise SystemExit(f"{result.outcome}: {result.details}")
    await asyncio.sleep(0.02)
    return statistics.median(taken) * 1e3, count / (_cpu_s() - before)


async def _ratios(sandbox: SubprocessSandbox, interpreter: str, calls: int) -> bool:
    good = True
    print(
        f"{'grader':18}{'fresh ms':>10}{'p50 ms':>9}{'fresh/core-s':>14}{'calls/core-s':>14}{'ratio':>8}  bar"
    )
    for name, (source, bar, bar_ms) in BARS.items():
        if name != "trivial" and not image.is_full():
            continue
        fresh_ms, fresh_rate = _fresh(interpreter, source, 30 if name == "trivial" else 15)
        warm_ms, warm_rate = await _warm(sandbox, source, calls)
        ratio = warm_rate / fresh_rate
        held = ratio >= bar and warm_ms <= bar_ms
        good &= held
        verdict = "held" if held else "MISSED"
        print(
            f"{name:18}{fresh_ms:10.1f}{warm_ms:9.2f}{fresh_rate:14.1f}{warm_rate:14.1f}{ratio:8.1f}"
            f"  >= {bar:g}x, <= {bar_ms:g} ms: {verdict}"
        )
    if image.is_full():
        warm_ms, warm_rate = await _warm(sandbox, ROUGE, max(20, calls // 10))
        print(f"{'rouge+sympy':18}{'':10}{warm_ms:9.2f}{'':14}{warm_rate:14.1f}")
    return good


async def _batch(interpreter: str, rows: int) -> bool:
    """Grade a batch with one endless row; return whether it cost nothing but itself."""
    timeout_s = 3.0
    sandbox = await _start(interpreter, timeout_s=timeout_s, slow_after_s=0.2)
    try:
        await sandbox.run(_call(TRIVIAL))
        begun = time.perf_counter()
        await asyncio.gather(*(sandbox.run(_call(TRIVIAL)) for _ in range(rows)))
        plain_s = time.perf_counter() - begun
        begun = time.perf_counter()
        endless = asyncio.create_task(sandbox.run(_call(FOREVER)))
        others = [asyncio.create_task(sandbox.run(_call(TRIVIAL))) for _ in range(rows - 1)]
        results = await asyncio.gather(*others)
        others_s = time.perf_counter() - begun
        killed = await endless
        over_ms = (killed.execution_time_s - timeout_s) * 1e3
    finally:
        await sandbox.close()
    held = (
        all(result.value == 0.5 for result in results)
        and killed.outcome == "timeout"
        and over_ms < 100
    )
    print(
        f"batch of {rows}: {plain_s:.2f} s; with one endless row the other {rows - 1} in {others_s:.2f} s,"
        f" killed {over_ms:.1f} ms after its deadline: {'held' if held else 'MISSED'}"
    )
    return held


def _state() -> dict[str, int]:
    gc.collect()
    temporary = Path(tempfile.gettempdir())
    pages = 0
    for pid in (os.getpid(), *_family()):
        try:
            resident, shared = map(int, Path(f"/proc/{pid}/statm").read_text().split()[1:3])
        except OSError:
            continue
        pages += resident - shared
    return {
        "processes": len(_family()),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "temp files": sum(1 for _ in temporary.glob("gradekeeper-*/*/*")),
        "memory kB": pages * os.sysconf("SC_PAGE_SIZE") // 1024,
    }


async def _soak(sandbox: SubprocessSandbox, calls: int) -> bool:
    """Run many mixed calls; return whether nothing is left of them."""
    sources = (
        [TRIVIAL] * 12 + [RAISING] * 3 + [EXITING] * 3 + [FUZZY if image.is_full() else TRIVIAL] * 2
    )
    width = asyncio.Semaphore(8)

    async def one(index: int) -> None:
        async with width:
            if index % 200 == 199:
                task = asyncio.create_task(sandbox.run(_call(FOREVER)))
                await asyncio.sleep(0.01)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            else:
                await sandbox.run(_call(sources[index % len(sources)] + f"# {index % 300}\n"))

    async def some(count: int) -> None:
        for start in range(0, count, 500):
            await asyncio.gather(*(one(index) for index in range(start, min(start + 500, count))))
        await asyncio.sleep(0.3)

    await some(calls // 10)  # caches fill, the allocator settles
    before = _state()
    begun = time.perf_counter()
    await some(calls)
    taken_s = time.perf_counter() - begun
    after = _state()
    held = all(after[name] <= before[name] for name in ("processes", "descriptors", "temp files"))
    held &= after["memory kB"] <= before["memory kB"] * 1.05
    print(
        f"soak of {calls} calls in {taken_s:.1f} s ({calls / taken_s:.0f}/s): {sandbox.stats().calls}"
    )
    for name, value in before.items():
        print(f"  {name:12}{value:>10} -> {after[name]}")
    print(f"  {'held' if held else 'MISSED'}")
    return held


async def _start(interpreter: str, **changes: float) -> SubprocessSandbox:
    config = SandboxConfig(images={image.TAG: interpreter}, **changes)  # type: ignore[arg-type]
    sandbox = await start_sandbox(config)
    if not isinstance(sandbox, SubprocessSandbox):
        raise SystemExit("there is no isolation to measure here")
    return sandbox


async def _measure(options: argparse.Namespace) -> bool:
    interpreter = image.built()
    sandbox = await _start(interpreter)
    print(f"level {sandbox.report().level}, Python {sandbox.report().python[image.TAG]}")
    parts: list[Callable[[], Awaitable[bool]]] = []
    if options.soak:
        parts.append(lambda: _soak(sandbox, options.soak))
    else:
        parts.append(lambda: _ratios(sandbox, interpreter, options.calls))
        parts.append(lambda: _batch(interpreter, 1024))
    try:
        return all([await part() for part in parts])
    finally:
        await sandbox.close()


def main() -> int:
    """Measure what the command line asks for and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.bench_sandbox", description=__doc__
    )
    parser.add_argument("--calls", type=int, default=300)
    parser.add_argument("--soak", type=int, default=0, metavar="CALLS")
    options = parser.parse_args()
    # A folder of our own, so that what others leave behind is not counted.
    with (
        tempfile.TemporaryDirectory() as tempfile.tempdir,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,  # as the service runs
    ):
        return 0 if runner.run(_measure(options)) else 1


if __name__ == "__main__":
    sys.exit(main())
