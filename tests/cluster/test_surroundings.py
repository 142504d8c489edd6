"""What processes stand on gives way: the disk is full, the clock jumps."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.processes import cluster
from tests.cluster.story import HOLD_S, Report, blocking, story
from tests.cluster.test_processes import kill_zygotes
from tests.cluster.wall_clock import WallClock
from tests.fakes_upstream import Upstream

pytestmark = [pytest.mark.system, pytest.mark.serial, pytest.mark.faults]

_DISK_BYTES = 64 * 1024 * 1024
_DISK_FILES = 4096


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    options = f"size={_DISK_BYTES},nr_inodes={_DISK_FILES},mode=755"
    mount = ["mount", "-t", "tmpfs", "-o", options, "none", str(place)]
    done = subprocess.run(mount, check=False, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"needs to mount a small disk, as root: {done.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def fill(disk: Path) -> Path:
    """Take every byte and every file of ``disk``; return the directory that has them."""
    ballast = disk / "ballast"
    ballast.mkdir()
    with (ballast / "bytes").open("wb", buffering=0) as file:
        size = 1 << 20
        while size:
            try:
                file.write(b"x" * size)
            except OSError as error:
                assert error.errno == errno.ENOSPC  # noqa: PT017 - anything else is no full disk
                size //= 2
    with contextlib.suppress(OSError):
        for number in range(_DISK_FILES):
            (ballast / str(number)).touch()
    with pytest.raises(OSError, match="No space left"):
        (ballast / "more").touch()
    assert shutil.disk_usage(disk).free == 0
    return ballast


def recorded(disk: Path) -> set[str]:
    """Return the keys of every judge call in the recordings on ``disk``."""
    texts = [path.read_text() for path in disk.glob("recording-*.jsonl")]
    lines = [json.loads(line) for text in texts for line in text.splitlines()]
    return {line["key"] for line in lines if "key" in line}


@pytest.mark.parametrize("workers", [1, 2])
async def test_the_disk_is_full(judge: Upstream, report: Report, disk: Path, workers: int) -> None:
    temporary = disk / "tmp"
    temporary.mkdir(mode=0o777)
    asked_before = judge.count
    # One process writes a recording; several share files of metrics.
    settings = (
        {"JUDGE_MODE": "record", "JUDGE_RECORDING": str(disk / "recording-{port}.jsonl")}
        if workers == 1
        else {"WORKERS": str(workers)}
    )
    variables = {"TMPDIR": str(temporary)}
    with cluster(judge.url, parent=disk, variables=variables, settings=settings) as found:
        pids = [process.pid for service in found.services for process in service.workers()]
        async with story(found, report) as told:
            told.broken()
            ballast = await blocking(fill, disk)
            await asyncio.sleep(HOLD_S / 2)
            kill_zygotes(found.services[0])  # their successors need a directory
            await asyncio.sleep(HOLD_S / 2)
            await blocking(shutil.rmtree, ballast)
            told.healed()
        assert pids == [p.pid for service in found.services for p in service.workers()]
        for service in found.services:
            assert await blocking(service.stop) == 0
    if workers == 1:
        assert len(recorded(disk)) == judge.count - asked_before


async def test_the_clock_jumps(judge: Upstream, report: Report, tmp_path: Path) -> None:
    clock, budgets = WallClock(tmp_path), tmp_path / "budgets.json"
    budgets.write_text('{"budgets": [{"per": "total", "dollars_per_day": 1000}]}')
    settings = {"JUDGE_BUDGETS_FILE": str(budgets)}
    with cluster(judge.url, variables=clock.variables, settings=settings) as found:
        async with story(found, report) as told:
            told.broken()
            days = set()
            for off in (40, -40, 0):
                clock.jump(off)
                await asyncio.sleep(HOLD_S)
                days.add(round((found.services[0].clock() - time.time()) / 86400))
            told.healed()
        assert days == {40, -40, 0}
    assert set(report.calls) == {"right"}
