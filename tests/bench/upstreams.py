"""The scripted upstream as a process of its own: prints its address, answers at once, for ever."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator

import msgspec

from tests.bench.servers import ROOT, cores
from tests.fakes_upstream import Upstream, completion

ANSWER = msgspec.json.encode(
    {"steps": [{"description": "d" * 180, "conclusion": "c" * 180}], "result": 0.5}
).decode()


@contextlib.contextmanager
def running() -> Iterator[str]:
    """Run it on the core of the load and give its address."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.bench.upstreams"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    os.sched_setaffinity(process.pid, {cores()[1]})
    assert process.stdin is not None
    assert process.stdout is not None
    with process.stdin, process.stdout:
        yield process.stdout.readline().strip()
    process.wait(10)


async def main() -> None:
    """Serve until standard input ends."""
    says = completion(ANSWER)
    async with Upstream(lambda asked: says, keep=False) as upstream:
        print(upstream.url, flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
