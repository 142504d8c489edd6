"""Reading grader JSON: every fault is found with its place, tolerated deviations are put right.

Each ``invalid/NAME.json`` is a definition as somebody might post it, ``NAME.findings.json`` exactly
what is said about it.
"""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from graders import schema
from graders.building import Options
from graders.engine import compile_grader
from graders.errors import DefinitionError, Finding
from graders.findings import MAX_FINDINGS
from graders.importing import MAX_GRADERS, MAX_NESTING, Reading, read
from graders.lint import lint

INVALID = sorted(
    path
    for path in Path(__file__).with_name("invalid").glob("*.json")
    if not path.name.endswith(".findings.json")
)
STRING_CHECK = {
    "type": "string_check",
    "name": "g",
    "operation": "eq",
    "input": "",
    "reference": "",
}
SCORE_MODEL = {"type": "score_model", "name": "g", "model": "m"}


def codes(reading: Reading) -> list[tuple[str, str]]:
    return [(finding.pointer, finding.code) for finding in reading.findings]


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize("path", INVALID, ids=[path.stem for path in INVALID])
def test_invalid_definition_gets_exactly_these_findings(path: Path) -> None:
    expected = msgspec.json.decode(
        path.with_suffix(".findings.json").read_bytes(), type=list[Finding]
    )
    raw = json.loads(path.read_bytes())
    options = Options(synonyms_hint="Run make wordnet.")
    assert lint(raw, options, purpose="validate") == expected
    with pytest.raises(DefinitionError) as raised:
        compile_grader(raw, options, purpose="validate")
    assert list(raised.value.findings) == expected
    assert any(finding.severity == "error" for finding in expected)


@pytest.mark.parametrize("path", INVALID, ids=[path.stem for path in INVALID])
def test_every_finding_points_into_the_posted_document_or_to_what_is_missing(path: Path) -> None:
    raw = json.loads(path.read_bytes())
    for finding in read(raw).findings:
        *parents, last = finding.pointer.split("/")
        place = raw
        for step in parents[1:]:
            key = step.replace("~1", "/").replace("~0", "~")
            place = place[int(key)] if isinstance(place, list) else place[key]
        if finding.code not in {"missing_required_parameter", "missing_name"} and last:
            key = last.replace("~1", "/").replace("~0", "~")
            assert place[int(key)] if isinstance(place, list) else key in place


def test_neq_is_read_as_ne() -> None:
    reading = read({**STRING_CHECK, "operation": "neq"})
    assert reading.document["operation"] == "ne"
    assert isinstance(reading.grader, schema.StringCheck)
    assert reading.grader.operation == "ne"
    assert codes(reading) == [("/operation", "renamed_value")]


def test_posted_document_is_left_as_it_was() -> None:
    raw = {
        **SCORE_MODEL,
        "operation": "neq",
        "input": [{"role": "user", "content": "x"}],
        "sampling_params": {"max_tokens": 5},
    }
    before = json.dumps(raw)
    assert read(raw).document != raw
    assert json.dumps(raw) == before


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_other_names_of_the_token_limit_are_read(name: str) -> None:
    reading = read({**SCORE_MODEL, "input": [], "sampling_params": {name: 7}})
    assert isinstance(reading.grader, schema.ScoreModel)
    assert reading.grader.sampling_params == schema.SamplingParams(max_completions_tokens=7)
    assert reading.document["sampling_params"] == {"max_completions_tokens": 7}
    assert codes(reading) == [(f"/sampling_params/{name}", "renamed_parameter")]


@pytest.mark.parametrize(
    "params",
    [
        {"max_tokens": 1, "max_completions_tokens": 7},
        {"max_completions_tokens": 7, "max_tokens": 1},
        {"max_completion_tokens": 7, "max_tokens": 1},
    ],
)
def test_only_one_token_limit_counts(params: dict[str, int]) -> None:
    reading = read({**SCORE_MODEL, "input": [], "sampling_params": params})
    assert reading.document["sampling_params"] == {"max_completions_tokens": 7}
    assert ("/sampling_params/max_tokens", "ignored_parameter") in codes(reading)


def test_list_of_graders_with_names_becomes_a_map() -> None:
    children = [{**STRING_CHECK, "name": "a"}, {**STRING_CHECK, "name": "b"}]
    reading = read({"type": "multi", "name": "m", "graders": children, "calculate_output": "a + b"})
    assert reading.document["graders"] == {"a": children[0], "b": children[1]}
    assert reading.pointers == {"a": "/graders/0", "b": "/graders/1"}
    assert codes(reading) == [("/graders", "list_of_graders")]


def test_unknown_keys_are_kept_and_reported_at_every_depth() -> None:
    part = {"type": "input_text", "text": "x", "lang": "en"}
    raw = {
        **SCORE_MODEL,
        "note": 1,
        "input": [{"role": "user", "content": [part], "id": 7}],
        "sampling_params": {"top_k": 5},
    }
    reading = read(raw)
    assert reading.document == raw
    assert sorted(codes(reading)) == [
        ("/input/0/content/0/lang", "unknown_parameter"),
        ("/input/0/id", "unknown_parameter"),
        ("/note", "unknown_parameter"),
        ("/sampling_params/top_k", "unknown_parameter"),
    ]
    assert all(finding.severity == "warning" for finding in reading.findings)


def test_deviations_of_other_types_are_not_put_right() -> None:
    reading = read({**STRING_CHECK, "sampling_params": {"max_tokens": 5}, "input": "x"})
    assert reading.document["sampling_params"] == {"max_tokens": 5}
    assert codes(reading) == [("/sampling_params", "unknown_parameter")]


def test_null_is_as_good_as_absent_where_a_field_is_optional() -> None:
    raw: dict[str, Any] = {
        **SCORE_MODEL,
        "input": [],
        "name": None,
        "range": None,
        "sampling_params": None,
    }
    assert read(raw).findings == ()


def test_all_content_forms_are_read() -> None:
    audio = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}
    image = {"type": "input_image", "image_url": "https://example.com/a.png", "file_id": None}
    raw = {
        **SCORE_MODEL,
        "input": [
            {"role": "developer", "type": "message", "content": "text"},
            {"role": "user", "content": ["text", image, audio]},
            {"role": "assistant", "content": {"type": "output_text", "text": "t"}},
        ],
    }
    reading = read(raw)
    assert isinstance(reading.grader, schema.ScoreModel)
    assert reading.grader.input[1].content == (
        "text",
        schema.InputImage(image_url="https://example.com/a.png"),
        schema.InputAudio(input_audio=schema.AudioData(data="AAAA", format="wav")),
    )
    assert reading.grader.input[2].content == schema.OutputText(text="t")
    assert codes(reading) == [("/input/2/content", "single_content")]


def test_key_that_no_formula_can_name_is_a_warning() -> None:
    graders = {"a-b": STRING_CHECK}
    reading = read({"type": "multi", "name": "m", "graders": graders, "calculate_output": "1"})
    assert codes(reading) == [("/graders/a-b", "unreachable_grader")]


def test_too_many_graders_are_refused() -> None:
    graders = {f"g{number}": STRING_CHECK for number in range(MAX_GRADERS + 1)}
    reading = read({"type": "multi", "name": "m", "graders": graders, "calculate_output": "g0"})
    assert codes(reading) == [("/graders", "invalid_value")]
    listed = [{**STRING_CHECK, "name": name} for name in graders]
    reading = read({"type": "multi", "name": "m", "graders": listed, "calculate_output": "g0"})
    assert codes(reading) == [("/graders", "invalid_type")]


def test_findings_are_bounded_and_errors_survive_a_flood_of_warnings() -> None:
    flood = {f"unknown{number}": 1 for number in range(10_000)}
    reading = read({**flood, **STRING_CHECK, "operation": 5})
    warnings = [finding for finding in reading.findings if finding.severity == "warning"]
    errors = [finding for finding in reading.findings if finding.severity == "error"]
    assert len(warnings) == MAX_FINDINGS + 1
    assert warnings[-1].code == "too_many_findings"
    assert [finding.pointer for finding in errors] == ["/operation"]


def test_flood_of_errors_is_cut_and_still_refused() -> None:
    reading = read({**SCORE_MODEL, "input": [None] * 10_000})
    assert len(reading.findings) == MAX_FINDINGS + 1
    assert reading.findings[-1] == Finding(
        pointer="",
        message="There are more than 100 errors; the rest is not listed.",
        code="too_many_findings",
    )


@pytest.mark.parametrize("depth", [MAX_NESTING, 10_000])
def test_deep_nesting_is_refused_without_recursion(depth: int) -> None:
    assert codes(read({**STRING_CHECK, "extra": nested(depth)})) == [("", "nested_too_deeply")]


def test_nesting_up_to_the_limit_is_kept() -> None:
    raw = {**STRING_CHECK, "extra": nested(MAX_NESTING - 1)}
    assert codes(read(raw)) == [("/extra", "unknown_parameter")]
    assert compile_grader(raw, Options(), purpose="store").document == raw


def test_messages_stay_short_whatever_is_posted() -> None:
    long = "x" * 100_000
    raw = {**STRING_CHECK, "operation": long, long: 1}
    findings = lint(raw, Options())
    assert len(findings) == 2
    assert all(len(finding.message) < 1_000 for finding in findings)


@pytest.mark.parametrize(
    "raw",
    [
        {**STRING_CHECK, "extra": float("nan")},
        {**STRING_CHECK, "pass_threshold": float("inf")},
        {**STRING_CHECK, "extra": 10**5000},
        {**STRING_CHECK, "extra": {1, 2}},
    ],
    ids=["nan", "infinity", "integer of 5,000 digits", "no JSON at all"],
)
def test_what_no_json_can_hold_is_refused(raw: dict[str, Any]) -> None:
    findings = lint(raw, Options())
    assert [finding.code for finding in findings if finding.severity == "error"] == ["invalid_json"]


def test_lone_surrogates_are_digested_and_graded() -> None:
    raw = {**STRING_CHECK, "input": "\ud800", "reference": "\ud800"}
    assert compile_grader(raw, Options(), purpose="run").digest.startswith("sha256:")
