"""``python -m tests.cluster.soak``: full load for minutes, every reward of it checked.

Not to be confused with the suite ``soak`` of `tests.bench`, which looks for leaks of the sandbox.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import sys
import time
from array import array
from collections import Counter
from collections.abc import Callable, Mapping

import msgspec
import psutil

from tests.cluster import judge
from tests.cluster.load import Client, Result, closed_loop, percentile
from tests.cluster.processes import KEY, Cluster, Service, cluster
from tests.cluster.workload import KINDS, Kind

SECONDS = 600
CONNECTIONS = 32
_MIB = 1024 * 1024
_LOOK_S = 1.0
_SETTLED = 0.2  # share of the run after which memory should not grow much any more


class Usage(msgspec.Struct, frozen=True):
    """What a component used: CPU in cores, private memory in MiB."""

    cores: float
    early_mib: float
    late_mib: float
    peak_mib: float


class Findings(msgspec.Struct, frozen=True, kw_only=True):
    """What a soak showed.

    Attributes:
        seconds: How long the load was held.
        right: Requests whose every reward was as expected.
        rows: Rewards of those.
        faults: Everything else, by what happened.
        latency_s: Seconds that callers waited, by kind, sorted.
        usage: By component.
        counted: Rewards that the services say they gave.
    """

    seconds: float
    right: int
    rows: int
    faults: dict[str, int]
    latency_s: dict[Kind, list[float]]
    usage: dict[str, Usage]
    counted: int


class _Meter:
    """CPU time and memory of one component, which may start and end processes."""

    def __init__(self, family: Callable[[], list[psutil.Process]]) -> None:
        self._family = family
        self._began = time.monotonic()
        self._cpu_s = self._used_s()
        self._mib: list[float] = []

    def look(self) -> None:
        self._mib.append(sum(map(_private_mib, self._family())))

    def usage(self) -> Usage:
        self.look()
        seconds = time.monotonic() - self._began
        settled = self._mib[int(len(self._mib) * _SETTLED) :]
        return Usage(
            (self._used_s() - self._cpu_s) / seconds, settled[0], settled[-1], max(self._mib)
        )

    def _used_s(self) -> float:
        """Return CPU seconds of every process that lives and of all that those have reaped."""
        total = 0.0
        for process in self._family():
            with contextlib.suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                total += times.user + times.system + times.children_user + times.children_system
        return total


def _private_mib(process: psutil.Process) -> float:
    try:
        memory = process.memory_info()
    except psutil.NoSuchProcess:
        return 0.0
    return float(memory.rss - memory.shared) / _MIB


def _alone(pid: int) -> Callable[[], list[psutil.Process]]:
    process = psutil.Process(pid)
    return lambda: [process]


def soak(*, seconds: float, connections: int = CONNECTIONS) -> Findings:
    """Hold the load for ``seconds`` and return what became of it."""
    with judge.running() as (url, judge_process), cluster(url) as found:
        first, second = found.services
        components = {
            "service 1 with its graders": first.family,
            "service 2 with its graders": second.family,
            "balancer": _alone(found.balancer.pid),
            "redis": _alone(found.redis.pid),
            "judge model (scripted)": lambda: [judge_process],
            "load": _alone(os.getpid()),
        }
        return asyncio.run(_held(found, components, seconds, connections))


async def _held(
    found: Cluster,
    components: Mapping[str, Callable[[], list[psutil.Process]]],
    seconds: float,
    connections: int,
) -> Findings:
    async with Client(found.url, KEY) as client:
        await closed_loop(client, connections=connections, seconds=1, seed=1)  # what starts late
        client.results.clear()
        before = sum(map(_counted, found.services))
        meters = {name: _Meter(family) for name, family in components.items()}
        books = _Books()
        began = time.monotonic()
        load = closed_loop(client, connections=connections, seconds=seconds, seed=2)
        task = asyncio.create_task(load)
        while not task.done():
            await asyncio.wait({task}, timeout=_LOOK_S)
            books.enter(client.results)
            for meter in meters.values():
                meter.look()
        await task
        took = time.monotonic() - began
        books.enter(client.results)
    usage = {name: meter.usage() for name, meter in meters.items()}
    return Findings(
        seconds=took,
        right=books.right,
        rows=books.rows,
        faults=dict(books.faults),
        latency_s={kind: sorted(books.seconds[kind]) for kind in KINDS},
        usage=usage,
        counted=round(sum(map(_counted, found.services)) - before),
    )


class _Books:
    """What became of the calls, small enough for millions of them."""

    def __init__(self) -> None:
        self.right = 0
        self.rows = 0
        self.faults: Counter[str] = Counter()
        self.seconds: dict[Kind, array[float]] = {kind: array("d") for kind in KINDS}

    def enter(self, results: list[Result]) -> None:
        """Take over ``results``, which is emptied."""
        for result in results:
            self.seconds[result.kind].append(result.seconds)
            if result.outcome.verdict == "right":
                self.right += 1
                self.rows += result.rows
            else:
                self.faults[f"{result.outcome.verdict}: {result.outcome.what}"] += 1
        results.clear()


def _counted(service: Service) -> float:
    names = ("exact", "near", "coded", "judged", "both")
    series = 'grades_total{{grader="{}",outcome="ok",version="1"}}'
    return sum(service.metric(series.format(name)) for name in names)


def table(found: Findings) -> str:
    """Return the findings for people."""
    load = os.getloadavg()
    rate, rewards = found.right / found.seconds, found.rows / found.seconds
    lines = [
        f"{found.right:,} requests right in {found.seconds:.0f} s: {rate:,.0f}/s",
        f"rewards: {rewards:,.0f}/s",
        f"anything else: {found.faults or 'nothing'}",
        f"rewards received {found.rows:,}, counted by the services {found.counted:,}",
        f"load average {load[0]:.1f} {load[1]:.1f} {load[2]:.1f} on {os.cpu_count()} cores",
        "",
        f"{'waited':<28}{'p50 ms':>10}{'p99 ms':>10}{'max ms':>10}",
    ]
    everything = sorted(value for values in found.latency_s.values() for value in values)
    for kind, values in [*found.latency_s.items(), ("all", everything)]:
        shown = (percentile(values, 0.5), percentile(values, 0.99), values[-1] if values else 0.0)
        lines.append(f"{kind:<28}" + "".join(f"{value * 1000:>10.1f}" for value in shown))
    lines += ["", f"{'used':<28}{'cores':>10}{'MiB then':>10}{'MiB now':>10}{'peak':>10}"]
    for name, use in found.usage.items():
        memory = "".join(f"{mib:>10.0f}" for mib in (use.early_mib, use.late_mib, use.peak_mib))
        lines.append(f"{name:<28}{use.cores:>10.2f}{memory}")
    return "\n".join(lines)


def main() -> int:
    """Run; return 1 when any reward was wrong, lost or refused."""
    parser = argparse.ArgumentParser(prog="python -m tests.cluster.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--connections", type=int, default=CONNECTIONS)
    arguments = parser.parse_args()
    found = soak(seconds=arguments.seconds, connections=arguments.connections)
    print(table(found))  # noqa: T201 - a command
    return 1 if found.faults or found.counted != found.rows else 0


if __name__ == "__main__":
    sys.exit(main())
