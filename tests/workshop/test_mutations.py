"""Small faults: each is one change, and good examples notice it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from service.workshop.check import Terms
from service.workshop.library import Subject
from service.workshop.mutants import catch_mutants, check_mutants
from service.workshop.mutations import mutations
from tests.workshop.conftest import Run
from tests.workshop.world import (
    CODE,
    ENDPOINT,
    EXACT,
    JUDGE,
    LABEL,
    OPTIONS,
    multi,
    row,
    shown,
    subject,
    terms,
    write,
)

NEAR = {**EXACT, "type": "text_similarity", "evaluation_metric": "fuzzy_match"}
NEAR.pop("operation")


def changes(document: dict[str, Any]) -> list[str]:
    before = json.dumps(document)
    found = list(mutations(document))
    assert json.dumps(document) == before
    assert all(json.dumps(each.document) != before for each in found)
    return [each.change for each in found]


def formulas(formula: str) -> list[str]:
    document = multi(formula, a=ENDPOINT, b=ENDPOINT)
    return [each.document["calculate_output"] for each in mutations(document)]


def sources(source: str) -> list[str]:
    return [each.document["source"] for each in mutations({**CODE, "source": source})]


def test_formula_is_changed_in_every_place() -> None:
    assert formulas("0.5 * a - min(a, b)") == [
        "0.85 * a - min(a, b)",
        "0.5 / a - min(a, b)",
        "0.5 * b - min(a, b)",
        "0.5 * a + min(a, b)",
        "0.5 * a - max(a, b)",
        "0.5 * a - min(b, b)",
        "0.5 * a - min(a, a)",
    ]


def test_guards_and_functions_without_a_twin_are_left_alone() -> None:
    assert formulas("exp(a / 1e-9)") == ["exp(b / 1e-9)", "exp(a * 1e-9)"]


def test_each_type_has_its_faults() -> None:
    assert changes(EXACT) == ["operation eq → ne", "operation eq → ilike"]
    assert changes(NEAR) == [
        "evaluation_metric fuzzy_match → bleu",
        "evaluation_metric fuzzy_match → rouge_l",
    ]
    assert len(changes({**NEAR, "evaluation_metric": "gleu"})) == 2
    assert changes(JUDGE) == ["range [1, 10] → [1, 5.5]", "range [1, 10] → [5.5, 10]"]
    assert changes(LABEL) == [
        "passing_labels ['good'] → []",
        "passing_labels ['good'] → ['good', 'bad']",
    ]
    assert changes(ENDPOINT) == []
    assert changes(multi("a", a=EXACT)) == ["a: operation eq → ne", "a: operation eq → ilike"]


@pytest.mark.parametrize(
    ("source", "changed"),
    [
        ("a < b", ["a >= b", "a <= b"]),
        ("a == b is c", ["a != b is c", "a == b is not c"]),
        ("a and b", ["a or b"]),
        ("a or b", ["a and b"]),
        ("a + b", ["a - b"]),
        ("a @ b", []),
        ("a += b", ["a -= b"]),
        ("-a", ["+a"]),
        ("~a", []),
        ("a if not b else c", ["a if b else c"]),
        ("True", ["False"]),
        ("3", ["4"]),
        ("0.0", ["0.1"]),
        ("1e-9", []),
        ("'text'", []),
    ],
)
def test_source_is_changed_one_node_at_a_time(source: str, changed: list[str]) -> None:
    assert sources(source) == changed


def test_change_names_line_and_both_spellings() -> None:
    assert changes({**CODE, "source": "x = 1\ny = a < 2"}) == [
        "line 1: 1 → 2",
        "line 2: a < 2 → a >= 2",
        "line 2: a < 2 → a <= 2",
        "line 2: 2 → 3",
    ]


async def test_good_examples_catch_every_mutant(tmp_path: Path) -> None:
    rows = [row("abcd", 1), row("abcde", 0.5)]
    result = await check_mutants(subject(tmp_path / "g", CODE, *rows), OPTIONS, terms())
    assert (result.status, result.name) == ("passed", "5 of 5 caught")


async def test_survivors_are_named(tmp_path: Path) -> None:
    one = subject(tmp_path / "g", CODE, row("abc", 1))
    caught = await catch_mutants(one, OPTIONS, terms())
    assert caught.survivors
    result = await check_mutants(one, OPTIONS, terms())
    assert result.status == "failed"
    assert "not noticed: line 3: len(sample['output_text']) < 5 → " in shown([result])


async def test_few_survivors_are_noted(tmp_path: Path) -> None:
    parts = {name: {**EXACT, "reference": f"{{{{item.{name}}}}}"} for name in "abcde"}
    others = {**dict.fromkeys("bcde", ""), "a": "-"}  # an empty text is in every other
    rows = [
        {"item": {**others, name: "x"}, "model_sample": "x", "reward": 2**number}
        for number, name in enumerate("abcde")
    ]
    document = multi("a + 2 * b + 4 * c + 8 * d + 16 * e", **parts)
    result = await check_mutants(subject(tmp_path / "g", document, *rows), OPTIONS, terms())
    assert result.status == "noted"
    assert result.lines == ("not noticed: a: operation eq → ilike",)


async def test_sample_of_the_mutants_is_even_and_the_same_every_time(tmp_path: Path) -> None:
    one = subject(tmp_path / "g", CODE, row("abc", 1))
    first = await catch_mutants(one, OPTIONS, terms(), sampled=3)
    assert first.tried == 3
    assert first == await catch_mutants(one, OPTIONS, terms(), sampled=3)


async def test_mutants_that_do_not_compile_do_not_count(tmp_path: Path) -> None:
    source = "def grade(s, i):\n    match len(s):\n        case -1: return 0.5\n    return 1.0\n"
    assert len(changes({**CODE, "source": source})) == 4
    one = subject(tmp_path / "g", {**CODE, "source": source}, row("x", 1))
    caught = await catch_mutants(one, OPTIONS, terms())
    assert caught.tried == 3  # a pattern cannot be +1
    nothing = subject(tmp_path / "h", ENDPOINT, row("x", 1, endpoint={"": {"score": 1}}))
    caught = await catch_mutants(nothing, OPTIONS, Terms(ports=terms().ports))
    assert (caught.tried, caught.share) == (0, 1.0)


async def test_mutant_whose_recordings_contradict_each_other_is_noticed(tmp_path: Path) -> None:
    document = multi("a + b", a=JUDGE, b={**JUDGE, "range": [1, 5.5]})
    judge = {"a": {"result": 1}, "b": {"result": 2}}
    example = {"item": {"question": "?"}, "model_sample": "!", "reward": 3, "judge": judge}
    caught = await catch_mutants(subject(tmp_path / "g", document, example), OPTIONS, terms())
    assert "a: range [1, 10] → [1, 5.5]" not in caught.survivors
    assert "b: range [1, 5.5] → [1, 3.25]" in caught.survivors


async def test_unreadable_examples_fail(tmp_path: Path) -> None:
    one: Subject = subject(tmp_path / "g", EXACT, {})
    assert "examples.jsonl:1" in shown([await check_mutants(one, OPTIONS, terms())])


def test_command_reports_survivors(run: Run, definitions: Path) -> None:
    write(definitions / "g", EXACT, row("Paris", 1), row("x", 0))
    code, out, _ = run("check", "g", "--mutants", "--no-probes")
    assert code == 1
    assert "failed: mutants 1 of 2 caught\n        not noticed: operation eq → ilike" in out
