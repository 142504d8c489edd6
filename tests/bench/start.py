"""From starting the process to its first answer, and the memory it then has."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from tests.bench.rows import Row, at_most, figure, ratios
from tests.bench.servers import cores, gradekeeper


def run(rounds: int) -> list[Row]:
    """Start the service as shipped, with its own definitions, in turns with a bare import."""
    ready_s: list[float] = []
    import_s: list[float] = []
    rss_mib: list[float] = []
    for round_number in range(rounds + 1):
        bare = _import_s()
        with gradekeeper({}) as server:
            if round_number:  # the first one fills the caches of files and bytecode
                ready_s.append(server.ready_s)
                rss_mib.append(server.rss_mib())
                import_s.append(bare)
    return [
        at_most(0.5, "ready after", ready_s, "s"),
        at_most(70, "memory when ready", rss_mib, "MiB"),
        figure(
            "ready after: times python -c 'import litestar, redis.asyncio'",
            ratios(ready_s, import_s),
        ),
    ]


def _import_s() -> float:
    began = time.perf_counter()
    command = [sys.executable, "-c", "import litestar, redis.asyncio"]
    process = subprocess.Popen(command)
    os.sched_setaffinity(process.pid, {cores()[0]})
    process.wait()
    return time.perf_counter() - began
