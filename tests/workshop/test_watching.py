"""What changed, seen by looking now and then."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from service.workshop.watching import changes
from tests.workshop.world import EXACT, row, write, write_lines


def test_changed_new_and_deleted_definitions_are_named(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(tmp_path / name, EXACT)

    def edit_two() -> None:
        write_lines(tmp_path / "a" / "examples.jsonl", row("x", 1))
        write(tmp_path / "c", EXACT)

    def delete() -> None:
        for file in (tmp_path / "b").iterdir():
            file.unlink()

    steps: list[Callable[[], None]] = [lambda: None, edit_two, lambda: None, delete]

    def sleep(_seconds: float) -> None:
        if not steps:
            raise KeyboardInterrupt
        steps.pop(0)()

    watched = changes([tmp_path], sleep=sleep)
    assert [next(watched), next(watched)] == [{"a", "c"}, {"b"}]
    with pytest.raises(KeyboardInterrupt):
        next(watched)


def test_changes_come_one_by_one(tmp_path: Path) -> None:
    write(tmp_path / "a", EXACT)
    (tmp_path / "a" / "gone").symlink_to(tmp_path / "nowhere")

    def sleep(_seconds: float) -> None:
        write_lines(tmp_path / "a" / "examples.jsonl", *[row("x", 1)] * next(lengths))

    lengths = iter(range(1, 10))
    watched = changes([tmp_path], sleep=sleep)
    assert [next(watched), next(watched)] == [{"a"}, {"a"}]
