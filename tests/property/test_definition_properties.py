"""Whatever is posted becomes a grader or findings; whatever is graded ends in a grade."""

import math
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graders import schema
from graders.building import Options
from graders.engine import CompiledGrader, compile_grader
from graders.errors import DefinitionError, GradingError
from graders.export import export
from graders.grade import ErrorFlags, Failure, SchemaErrorFlags, error_flags
from graders.ports import Ports
from graders.sample import Sample

TEXT = st.text(max_size=20) | st.sampled_from(
    ["{{item.a}}", "{{sample.output_text}}", "{{sample.output_json.a[0]}}", "{{", "a + b", "1 / a"]
)
KNOWN_KEYS = sorted(
    {
        *("type", "content", "text", "role", "a", "b"),
        *(name for kind in schema.TYPES.values() for name in kind.__struct_fields__),
    }
)
KNOWN_VALUES = [*schema.TYPES, "eq", "neq", "like", "fuzzy_match", "rouge_l", "bleu", "user"]
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT
    | st.sampled_from(KNOWN_VALUES),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(KNOWN_KEYS) | st.text(max_size=3), inner, max_size=6)
    ),
    max_leaves=25,
)
ITEMS = st.dictionaries(st.sampled_from(["a", "b"]), JSON, max_size=2)


def string_checks() -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {
            "type": st.just("string_check"),
            "name": st.just("g"),
            "operation": st.sampled_from(["eq", "ne", "like", "ilike"]),
            "input": TEXT,
            "reference": TEXT,
        }
    )


def similarities() -> st.SearchStrategy[dict[str, Any]]:
    metrics = ["fuzzy_match", "bleu", "gleu", "rouge_1", "rouge_l"]
    return st.fixed_dictionaries(
        {
            "type": st.just("text_similarity"),
            "name": st.just("g"),
            "evaluation_metric": st.sampled_from(metrics),
            "input": TEXT,
            "reference": TEXT,
        }
    )


def multis() -> st.SearchStrategy[dict[str, Any]]:
    part = string_checks() | similarities()
    formulas = ["a + b", "a / b", "log(a - b)", "exp(1000 * a)", "max(a, b) ^ 0.5", "-a * 3"]
    return st.fixed_dictionaries(
        {
            "type": st.just("multi"),
            "name": st.just("m"),
            "graders": st.fixed_dictionaries({"a": part, "b": part}),
            "calculate_output": st.sampled_from(formulas),
        }
    )


pytestmark = pytest.mark.property


def compiled(raw: Any) -> CompiledGrader | None:
    try:
        return compile_grader(raw, Options(), purpose="validate")
    except DefinitionError as refused:
        severities = [finding.severity for finding in refused.findings]
    assert "error" in severities
    return None


@given(JSON)
def test_any_json_is_a_grader_or_has_findings(raw: Any) -> None:
    grader = compiled(raw)
    assert grader is None or grader.type in schema.TYPES


@given(string_checks() | similarities() | multis(), JSON)
def test_definition_with_an_odd_key_is_read_or_refused(raw: dict[str, Any], odd: Any) -> None:
    for key in raw:
        compiled({**raw, key: odd})


@given(string_checks() | similarities() | multis(), ITEMS, TEXT)
async def test_grading_always_ends_in_a_finite_reward(
    raw: dict[str, Any], item: dict[str, Any], text: str
) -> None:
    grader = compiled(raw)
    if grader is None:
        return
    grade = grader.grade_now(item, Sample(text))
    assert math.isfinite(grade.reward)
    assert all(math.isfinite(reward) for reward in grade.sub_rewards.values())
    flags = msgspec.to_builtins(error_flags(grade.failures, ErrorFlags))
    assert grade.ok is (True not in flags.values())
    assert grade == await grader.grade(item, Sample(text), Ports())


@given(string_checks() | similarities() | multis())
def test_what_is_exported_reads_as_the_same_definition(raw: dict[str, Any]) -> None:
    grader = compiled(raw)
    if grader is None:
        return
    again = compiled(export(grader).body)
    assert again is not None
    assert again.grader == grader.grader
    assert again.digest == grader.digest


@given(st.lists(st.sampled_from(GradingError.__subclasses__()), max_size=5))
def test_flags_of_both_profiles_agree_on_whether_there_is_one(
    kinds: list[type[GradingError]],
) -> None:
    failures = tuple(Failure.of(kind("d")) for kind in kinds)
    for flags in (error_flags(failures, ErrorFlags), error_flags(failures, SchemaErrorFlags)):
        assert (True in msgspec.to_builtins(flags).values()) is bool(kinds)
