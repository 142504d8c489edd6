import pytest

from graders.building import Options
from graders.export import Target
from graders.lint import lint

EXACT = {"type": "string_check", "name": "g", "operation": "eq", "input": "a", "reference": "b"}
JUDGE = {
    "type": "score_model",
    "name": "g",
    "model": "o3-2025-04-16",
    "input": [{"role": "user", "content": "x"}],
}


def test_clean_definition_has_no_findings() -> None:
    assert lint(EXACT, Options()) == []


def test_errors_and_warnings_come_together() -> None:
    findings = lint({**EXACT, "operation": "neq", "reference": 5}, Options())
    assert [finding.severity for finding in findings] == ["warning", "error"]


def test_target_adds_what_it_cannot_carry() -> None:
    raw = {**EXACT, "pass_threshold": 0.5}
    assert lint(raw, Options()) == []
    findings = lint(raw, Options(), target="openai")
    assert [(finding.pointer, finding.code) for finding in findings] == [
        ("/pass_threshold", "left_out")
    ]


@pytest.mark.parametrize(("target", "codes"), [("openai", []), ("azure", ["unknown_judge"])])
def test_targets_differ_in_their_judges(target: Target, codes: list[str]) -> None:
    assert [finding.code for finding in lint(JUDGE, Options(), target=target)] == codes


def test_what_a_target_refuses_is_a_warning_here() -> None:
    raw = {
        "type": "text_similarity",
        "name": "g",
        "evaluation_metric": "cosine",
        "input": "a",
        "reference": "b",
    }
    findings = lint(raw, Options(), target="openai")
    assert [finding.message for finding in findings] == [
        "the grader uses cosine, which only Evals takes."
    ]
    assert [finding.severity for finding in findings] == ["warning"]


def test_unknown_key_is_reported_as_read_and_as_left_out() -> None:
    findings = lint({**EXACT, "note": 1}, Options(), target="openai")
    assert [(finding.pointer, finding.code) for finding in findings] == [
        ("/note", "unknown_parameter"),
        ("/note", "left_out"),
    ]
