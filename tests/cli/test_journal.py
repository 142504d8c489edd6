"""Scores on their way to a file: what a crash, another run or a full disk does to them."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from service.cli.failures import CommandError
from service.cli.journal import Fingerprint, Journal, read_scores, reopen, write_atomically
from service.cli.lines import Line
from service.wire import RowError
from tests.cli.world import read_lines

RUN = Fingerprint(
    signature="exact@1|sha256:1|engine:1|render:json",
    data_sha256="d" * 64,
    data_bytes=10,
    sample_field="model_sample",
    limit=None,
    debug=False,
)


def line(row: int, *, retryable: bool = False) -> Line:
    error = (
        RowError(code="judge_unavailable", message="down", retryable=True) if retryable else None
    )
    ok = not retryable
    return Line(row=row, reward=row / 2, ok=ok, passed=ok, error=error, signature="s", run=RUN.id)


@pytest.fixture
def partial(tmp_path: Path) -> Path:
    return tmp_path / "out.jsonl.partial"


def test_scores_come_out_in_the_order_of_the_rows(partial: Path, tmp_path: Path) -> None:
    journal = Journal(partial, RUN)
    journal.add([line(3), line(1)])
    journal.add([line(0)])
    journal.add([])
    journal.add([line(2)])
    assert journal.done == 4
    journal.finish(tmp_path / "out.jsonl")
    assert list(read_scores(tmp_path / "out.jsonl")) == [line(row) for row in range(4)]
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["out.jsonl"]


def test_a_second_run_finds_what_the_first_wrote(partial: Path) -> None:
    first = Journal(partial, RUN)
    first.add([line(0), line(5)])
    first.close()
    second = Journal(partial, RUN)
    assert second.done == 2
    assert [row for row in range(10) if row in second] == [0, 5]
    second.close()


@pytest.mark.parametrize("torn", [b'{"row":2,"rew', b'{"row":2}', b"\xff\xff\n", b"[]\n{}\n"])
def test_a_torn_end_is_cut_off(torn: bytes, partial: Path, tmp_path: Path) -> None:
    first = Journal(partial, RUN)
    first.add([line(0), line(1)])
    first.close()
    with partial.open("ab") as file:
        file.write(torn)
    second = Journal(partial, RUN)
    assert second.done == 2
    second.add([line(2)])
    second.finish(tmp_path / "out.jsonl")
    assert [entry["row"] for entry in read_lines(tmp_path / "out.jsonl")] == [0, 1, 2]


@pytest.mark.parametrize("header", [b"", b'{"run":{"sig'])
def test_a_journal_that_never_got_its_head_starts_again(header: bytes, partial: Path) -> None:
    partial.write_bytes(header)
    journal = Journal(partial, RUN)
    journal.add([line(0)])
    journal.close()
    again = Journal(partial, RUN)
    assert again.done == 1
    again.close()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"signature": "near@1"}, "the grader differed"),
        ({"data_sha256": "e" * 64, "data_bytes": 11}, "the data differed"),
        ({"limit": 3, "debug": True}, "--limit and --debug differed"),
        ({"sample_field": "answer"}, "--sample-field differed"),
    ],
)
def test_another_run_is_refused_unless_overwritten(
    change: dict[str, object], words: str, partial: Path
) -> None:
    first = Journal(partial, RUN)
    first.add([line(0)])
    first.close()
    other = msgspec.structs.replace(RUN, **change)
    assert other.id != RUN.id
    with pytest.raises(CommandError, match=f"belongs to another run: {words}; --overwrite"):
        Journal(partial, other)
    again = Journal(partial, other, overwrite=True)
    assert again.done == 0
    again.close()


def test_what_is_no_journal_is_refused(partial: Path) -> None:
    partial.write_text("my notes\n")
    with pytest.raises(CommandError, match="is no journal of scores; --overwrite it"):
        Journal(partial, RUN)
    assert partial.read_text() == "my notes\n"


def test_a_journal_without_scores_goes_away(partial: Path) -> None:
    Journal(partial, RUN).close()
    assert not partial.exists()


def test_two_runs_at_once_are_refused(partial: Path) -> None:
    first = Journal(partial, RUN)
    with pytest.raises(CommandError, match="is being written by another run"):
        Journal(partial, RUN, overwrite=True)
    first.close()


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="Is a directory"):
        Journal(tmp_path, RUN)
    with pytest.raises(CommandError, match=r"none/out: No such file or directory"):
        write_atomically(tmp_path / "none" / "out", [])


def test_a_full_disk_is_said() -> None:
    journal = Journal.__new__(Journal)
    journal.path = Path("out.partial")
    with Path("/dev/full").open("wb", buffering=0) as full:
        journal._file = full
        with pytest.raises(CommandError, match=r"out\.partial: No space left on device"):
            journal._write(b"x")


def test_scores_that_are_none_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with pytest.raises(CommandError, match="No such file"):
        list(read_scores(path))
    path.write_text('{"row": "one"}\n')
    with pytest.raises(CommandError, match="is no file of scores; --overwrite replaces it"):
        list(read_scores(path))


def test_finished_scores_open_again_without_what_failed_retryably(
    partial: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    lines = [line(0), line(1, retryable=True), line(2)]
    write_atomically(out, [msgspec.json.encode(entry) + b"\n" for entry in lines])
    assert reopen(out, partial, RUN) == 1
    journal = Journal(partial, RUN)
    assert [row for row in range(3) if row in journal] == [0, 2]
    journal.close()
    assert json.loads(partial.read_text().splitlines()[0])["run"]["limit"] is None
