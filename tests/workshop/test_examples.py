"""``examples.jsonl``: what can be read, and every fault at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from graders.engine import compile_grader
from service.workshop.examples import ExamplesError, read_examples
from tests.workshop.world import EXACT, JUDGE, OPTIONS, multi, row, write_lines

GRADER = compile_grader(EXACT, OPTIONS, purpose="store")
PARTS = compile_grader(multi("a + b", a=EXACT, b=JUDGE), OPTIONS, purpose="store")


def problems(path: Path, *lines: Any) -> str:
    with pytest.raises(ExamplesError) as raised:
        read_examples(write_lines(path / "examples.jsonl", *lines), PARTS)
    assert str(raised.value) == "\n".join(raised.value.problems)
    return str(raised.value)


def test_examples_are_known_by_their_line(tmp_path: Path) -> None:
    path = tmp_path / "examples.jsonl"
    sample = {"output_text": "x", "output_tools": []}
    second = {"item": {}, "sample": sample, "reward": 0}
    path.write_text(f"{json.dumps(row('Paris', 1.0))}\n\n{json.dumps(second)}\n")
    examples = read_examples(path, GRADER)
    assert list(examples) == [1, 3]
    assert examples[1].graded_sample().output_text == "Paris"
    assert examples[3].graded_sample().output_text == "x"
    assert examples[1].as_row() == {"item": {"answer": "Paris"}, "model_sample": "Paris"}
    assert examples[3].as_row() == {"item": {}, "sample": sample}


def test_examples_of_later_versions_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "examples.jsonl"
    write_lines(path, row("Paris", 1.0), row("paris", 1.0, since=2))
    assert list(read_examples(path, GRADER, 1)) == [1]
    assert list(read_examples(path, GRADER, 2)) == [1, 2]
    assert list(read_examples(path, GRADER)) == [1, 2]


def test_no_file_is_no_examples(tmp_path: Path) -> None:
    assert read_examples(tmp_path / "examples.jsonl", GRADER) == {}


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ({"item": {}, "reward": 1}, "needs either model_sample or sample"),
        (row("x", 1, sample={}), "needs either model_sample or sample"),
        ({"item": {}, "sample": {"output_text": 1}, "reward": 1}, "sample.output_text: expected"),
        (row("x", 1, rewards=2), "unknown field `rewards`"),
        ({"model_sample": "x", "reward": 1}, "missing required field `item`"),
        (row("x", 1, sub_rewards={"c": 1}), "sub_rewards names no part: ['c']"),
        (row("x", 1, judge={"c": {"result": 1}}), "a reply is recorded for 'c', but the parts are"),
        (row("x", 1, endpoint={"": {}}), "a reply is recorded for ''"),
        (row("x", 1, judge={"b": {"steps": []}}), "reply to 'b' needs result, content or refusal"),
        (row("x", 1, since=0), "Expected `int` >= 1"),
        ([], "Expected `object`"),
    ],
)
def test_faulty_line_is_named_with_its_fault(tmp_path: Path, line: Any, problem: str) -> None:
    text = problems(tmp_path, row("fine", 1), line)
    assert text.startswith(f"{tmp_path / 'examples.jsonl'}:2: ")
    assert problem in text


def test_every_fault_of_a_file_is_found(tmp_path: Path) -> None:
    lines = [row("x", 1, note="same"), row("y", 1, note="same"), {}]
    found = problems(tmp_path, *lines).splitlines()
    assert [line.partition("jsonl:")[2][:1] for line in found] == ["2", "3"]
    assert "the note of line 1 again" in found[0]


def test_reward_must_be_finite(tmp_path: Path) -> None:
    (tmp_path / "examples.jsonl").write_text('{"item": {}, "model_sample": "", "reward": 1e999}')
    with pytest.raises(ExamplesError):
        read_examples(tmp_path / "examples.jsonl", GRADER)
