"""Wiping what hostile graders leave."""

import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.sandbox import scratch

DEEP = 3000
FLAT_S = 0.5  # measured: 0.1 s for the wipe of 3000 nested directories in memory


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """In memory where possible; emptied by the wipe itself, since pytest's own recurses."""
    parent = scratch.usual_parent(1 << 20)
    with tempfile.TemporaryDirectory(dir=parent) as folder:
        yield Path(folder)
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        scratch.wipe(fd)
        os.close(fd)


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def _nest(tmp_path: Path, depth: int) -> None:
    here = os.getcwd()  # noqa: PTH109 - deeper than any path may be long
    os.chdir(tmp_path)
    for _ in range(depth):
        os.mkdir("directory")  # noqa: PTH102 - same
        os.chdir("directory")
    Path("file").write_bytes(b"x" * 100_000)
    os.chdir(here)


def test_an_empty_directory_is_empty(directory: int) -> None:
    assert scratch.is_empty(directory)
    scratch.wipe(directory)


def test_deep_nesting_is_measured_and_wiped_without_recursion(
    tmp_path: Path, directory: int
) -> None:
    _nest(tmp_path, DEEP)
    assert 100_000 <= scratch.usage_bytes(directory, 1 << 30, 2 * DEEP) < 1 << 30
    assert scratch.usage_bytes(directory, 1 << 30, DEEP - 1) > 1 << 30
    scratch.wipe(directory)
    assert scratch.is_empty(directory)


def test_depth_costs_no_more_than_breadth(tmp_path: Path, directory: int) -> None:
    _nest(tmp_path, DEEP)
    begun_s = time.thread_time()  # not the time of others
    scratch.usage_bytes(directory, 1 << 30, 2 * DEEP)
    scratch.wipe(directory)
    assert time.thread_time() - begun_s < FLAT_S


def test_what_lies_in_an_unreadable_directory_counts(tmp_path: Path, directory: int) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    for n in range(20):
        (inner / f"f{n}").touch()
    inner.chmod(0o300)
    assert scratch.usage_bytes(directory, 1 << 20, 10) > 1 << 20


def test_a_directory_that_moves_away_while_it_is_measured_ends_the_measurement(
    tmp_path: Path, directory: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    measure = scratch._measure

    def move_when_inside(current: int) -> tuple[list[str], int, int]:
        inside = measure(current)
        if not inside[0] and (tmp_path / "a" / "b").exists():
            (tmp_path / "a" / "b").rename(tmp_path / "elsewhere" / "b")
        return inside

    monkeypatch.setattr(scratch, "_measure", move_when_inside)
    assert scratch.usage_bytes(directory, 1 << 20, 100) <= 1 << 20
    monkeypatch.undo()
    scratch.wipe(directory)
    assert scratch.is_empty(directory)


def test_directories_without_permissions_are_wiped(tmp_path: Path, directory: int) -> None:
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    (inner / "file").write_text("x")
    inner.chmod(0)
    inner.parent.chmod(0)
    scratch.wipe(directory)
    assert scratch.is_empty(directory)


def test_links_are_removed_and_not_followed(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, directory: int
) -> None:
    outside = tmp_path_factory.mktemp("outside")
    (outside / "kept").write_text("x")
    (tmp_path / "link").symlink_to(outside)
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "link").symlink_to(outside)
    scratch.wipe(directory)
    assert (outside / "kept").read_text() == "x"
    assert scratch.is_empty(directory)


def test_usage_counts_blocks_and_stops_at_too_many_files(tmp_path: Path, directory: int) -> None:
    (tmp_path / "a").write_bytes(b"x" * 100_000)
    assert scratch.usage_bytes(directory, 1 << 20, 10) >= 100_000
    for n in range(20):
        (tmp_path / f"f{n}").touch()
    assert scratch.usage_bytes(directory, 1 << 20, 10) > 1 << 20
