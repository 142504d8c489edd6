"""Wiping what hostile graders leave."""

import contextlib
import itertools
import os
import tempfile
import time
from collections.abc import Callable, Iterator
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
    used, whole = scratch.usage(directory, 1 << 30, 2 * DEEP)
    assert 100_000 <= used < 1 << 30
    assert whole
    assert scratch.usage(directory, 1 << 30, DEEP - 1)[0] > 1 << 30
    scratch.wipe(directory)
    assert scratch.is_empty(directory)


def test_depth_costs_no_more_than_breadth(tmp_path: Path, directory: int) -> None:
    _nest(tmp_path, DEEP)
    begun_s = time.thread_time()  # not the time of others
    scratch.usage(directory, 1 << 30, 2 * DEEP)
    scratch.wipe(directory)
    assert time.thread_time() - begun_s < FLAT_S


def test_what_lies_in_an_unreadable_directory_counts(tmp_path: Path, directory: int) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    for n in range(20):
        (inner / f"f{n}").touch()
    inner.chmod(0o300)
    assert scratch.usage(directory, 1 << 20, 10)[0] > 1 << 20


def _while_measuring(
    monkeypatch: pytest.MonkeyPatch, disturb: Callable[[int, list[str]], None]
) -> None:
    """Call ``disturb`` with each directory's descriptor and subdirectories, once they are read."""
    measure = scratch._measure

    def disturbed(current: int) -> tuple[list[str], int, int]:
        found = measure(current)
        disturb(current, found[0])
        return found

    monkeypatch.setattr(scratch, "_measure", disturbed)


def test_a_directory_that_moves_while_it_is_measured_still_counts(
    tmp_path: Path, directory: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "file").write_bytes(b"x" * 100_000)

    def move(_: int, __: list[str]) -> None:
        for here, there in (("a", "elsewhere"), ("elsewhere", "a")):
            if (tmp_path / here / "b").exists():
                (tmp_path / here / "b").rename(tmp_path / there / "b")
                return

    _while_measuring(monkeypatch, move)
    used, whole = scratch.usage(directory, 1 << 20, 100)
    assert used >= 100_000
    assert whole


def test_a_directory_that_has_another_name_by_now_is_found(
    tmp_path: Path, directory: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a" / "a").mkdir(parents=True)
    (tmp_path / "a" / "a" / "file").write_bytes(b"x" * 100_000)

    def rename(current: int, inside: list[str]) -> None:
        for name in inside:
            os.rename(name, name + "b", src_dir_fd=current, dst_dir_fd=current)

    _while_measuring(monkeypatch, rename)
    used, whole = scratch.usage(directory, 1 << 20, 100)
    assert used >= 100_000
    assert whole


def test_a_measurement_that_only_meets_names_of_the_past_says_so(
    tmp_path: Path, directory: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "d").mkdir()
    names = itertools.count()

    def enter(current: int, name: str) -> int:
        os.rename(name, f"n{next(names)}", src_dir_fd=current, dst_dir_fd=current)
        raise FileNotFoundError(name)

    monkeypatch.setattr(scratch, "_enter", enter)
    assert scratch.usage(directory, 1 << 20, 100) == (0, False)
    assert next(names) < 100


def test_a_measurement_that_does_not_find_its_way_back_says_so_and_goes_on(
    tmp_path: Path, directory: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    _nest(tmp_path, 100)
    (tmp_path / "directory" / "data").mkdir()
    (tmp_path / "directory" / "data" / "file").write_bytes(b"x" * 200_000)

    def move_the_lowest(current: int, inside: list[str]) -> None:
        here = Path(f"/proc/self/fd/{current}").readlink()
        if not inside and here.name == here.parent.name == "directory":
            above = os.open("..", os.O_RDONLY, dir_fd=current)
            os.rename("directory", tmp_path / "directory" / "x", src_dir_fd=above)
            os.close(above)

    _while_measuring(monkeypatch, move_the_lowest)
    used, whole = scratch.usage(directory, 1 << 30, 4000)
    assert used >= 300_000
    assert not whole


@pytest.mark.parametrize("operation", ["usage", "wipe"])
def test_rights_are_given_to_the_directory_not_to_what_has_its_name_by_now(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, directory: int, operation: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    victim = tmp_path_factory.mktemp("outside") / "file"
    victim.touch(mode=0o444)
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "file").touch()
    open_ = os.open

    def swapped(path: str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if path == "d" and not flags & os.O_PATH and not (tmp_path / "d").is_symlink():
            (tmp_path / "d").rename(tmp_path / "e")
            (tmp_path / "d").symlink_to(victim)
            raise PermissionError
        return open_(path, flags, mode, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", swapped)
    with contextlib.suppress(OSError):
        if operation == "usage":
            scratch.usage(directory, 1 << 20, 100)
        else:
            scratch.wipe(directory)
    monkeypatch.undo()
    assert victim.stat().st_mode & 0o777 == 0o444


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
    assert scratch.usage(directory, 1 << 20, 10)[0] >= 100_000
    for n in range(20):
        (tmp_path / f"f{n}").touch()
    assert scratch.usage(directory, 1 << 20, 10)[0] > 1 << 20
