import pytest

from graders.building import Options
from graders.engine import compile_grader
from graders.sample import Sample
from graders.schema import Operation
from graders.string_check import score

TABLE: list[tuple[Operation, str, str, float]] = [
    ("eq", "Paris", "Paris", 1.0),
    ("eq", "Paris", "paris", 0.0),
    ("eq", "Paris ", "Paris", 0.0),
    ("eq", "", "", 1.0),
    ("eq", "\u00e9", "e\u0301", 0.0),  # one letter, composed and decomposed
    ("ne", "Paris", "London", 1.0),
    ("ne", "Paris", "Paris", 0.0),
    ("like", "The answer is 42.", "42", 1.0),
    ("like", "42", "The answer is 42.", 0.0),  # input contains reference, not the other way
    ("like", "PARIS", "paris", 0.0),
    ("like", "anything", "", 1.0),
    ("like", "abc", "a%", 0.0),  # no wildcards
    ("like", "100%", "0%", 1.0),
    ("like", "a_c", "a_c", 1.0),
    ("like", "abc", "a_c", 0.0),
    ("ilike", "I love PARIS", "paris", 1.0),
    ("ilike", "paris", "I love PARIS", 0.0),
    ("ilike", "ÅNGSTRÖM", "ångström", 1.0),
    ("ilike", "straße", "STRASSE", 0.0),  # lower(), not casefold()
    ("ilike", "", "", 1.0),
]


@pytest.mark.parametrize(
    ("operation", "text", "reference", "expected"), TABLE, ids=range(len(TABLE))
)
def test_operation(operation: Operation, text: str, reference: str, expected: float) -> None:
    assert score(operation, text, reference) == expected
    definition = {
        "type": "string_check",
        "name": "g",
        "operation": operation,
        "input": "{{sample.output_text}}",
        "reference": "{{item.reference}}",
    }
    grader = compile_grader(definition, Options(), purpose="run")
    assert grader.grade_now({"reference": reference}, Sample(text)).reward == expected
