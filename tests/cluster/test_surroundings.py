"""What processes stand on gives way: the disk is full, the clock jumps."""

from __future__ import annotations

import asyncio
import errno
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.processes import cluster
from tests.cluster.story import HOLD_S, Report, blocking, story
from tests.cluster.test_processes import kill_zygotes
from tests.fakes_upstream import Upstream

pytestmark = [pytest.mark.system, pytest.mark.serial, pytest.mark.faults]

_DISK_BYTES = 64 * 1024 * 1024


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={_DISK_BYTES},mode=755", "none", str(place)]
    done = subprocess.run(mount, check=False, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"needs to mount a small disk, as root: {done.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def fill(disk: Path) -> Path:
    """Take every byte of ``disk``; return the file that has them."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        size = 1 << 20
        while size:
            try:
                file.write(b"x" * size)
            except OSError as error:
                assert error.errno == errno.ENOSPC  # noqa: PT017 - anything else is no full disk
                size //= 2
    assert shutil.disk_usage(disk).free == 0
    return ballast


@pytest.mark.parametrize("workers", [1, 2])
async def test_the_disk_is_full(judge: Upstream, report: Report, disk: Path, workers: int) -> None:
    temporary = disk / "tmp"
    temporary.mkdir(mode=0o777)
    recording, asked_before = disk / "recording.jsonl", judge.count
    settings = {
        "JUDGE_MODE": "record",
        "JUDGE_RECORDING": str(recording),
        "WORKERS": str(workers),
    }
    variables = {"TMPDIR": str(temporary)}
    with cluster(judge.url, parent=disk, variables=variables, **settings) as found:
        pids = [process.pid for service in found.services for process in service.workers()]
        async with story(found, report) as told:
            told.broken()
            ballast = await blocking(fill, disk)
            await asyncio.sleep(HOLD_S / 2)
            kill_zygotes(found.services[0])  # their successors need a directory
            await asyncio.sleep(HOLD_S / 2)
            ballast.unlink()
            told.healed()
        assert pids == [p.pid for service in found.services for p in service.workers()]
        for service in found.services:
            assert await blocking(service.stop) == 0
    asked = judge.count - asked_before
    lines = [json.loads(line) for line in recording.read_text().splitlines()]
    assert len({line["key"] for line in lines if "key" in line}) == asked
