"""The judge model of the workload as a process of its own: prints its address, answers at once."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import Iterator

import psutil

from tests.bench.servers import ROOT
from tests.cluster.workload import judged_by_prompt
from tests.fakes_upstream import Upstream


@contextlib.contextmanager
def running() -> Iterator[tuple[str, psutil.Process]]:
    """Run it; give its address and process."""
    command = [sys.executable, "-m", "tests.cluster.judge"]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip(), psutil.Process(process.pid)


async def main() -> None:
    """Serve until standard input ends."""
    async with Upstream(judged_by_prompt, keep=False) as upstream:
        print(upstream.url, flush=True)  # noqa: T201 - read by the parent
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
