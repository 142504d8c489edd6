"""Wiping what hostile graders leave."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.sandbox import scratch


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def test_an_empty_directory_is_empty(directory: int) -> None:
    assert scratch.is_empty(directory)
    scratch.wipe(directory)


def test_deep_nesting_is_wiped_without_recursion(tmp_path: Path, directory: int) -> None:
    here = os.getcwd()  # noqa: PTH109 - deeper than any path may be long
    os.chdir(tmp_path)
    for _ in range(2500):
        os.mkdir("directory")  # noqa: PTH102 - same
        os.chdir("directory")
    os.chdir(here)
    assert scratch.usage_bytes(directory, 1 << 30, 10_000) > 1 << 30
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
