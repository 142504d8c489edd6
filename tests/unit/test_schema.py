import sys

import pytest

from graders import schema

STRING_CHECK = schema.StringCheck(operation="eq", input="", reference="")


@pytest.mark.parametrize(
    ("grader", "threshold"),
    [
        (STRING_CHECK, 1.0),
        (schema.LabelModel(model="m", input=(), labels=("a",), passing_labels=()), 1.0),
        (schema.TextSimilarity(evaluation_metric="bleu", input="", reference=""), 0.5),
        (schema.ScoreModel(model="m", input=()), 0.5),
        (schema.ScoreModel(model="m", input=(), range=(1.0, 7.0)), 4.0),
        (schema.ScoreModel(model="m", input=(), range=(-3.0, 1.0)), -1.0),
        (schema.Python(source=""), 0.5),
        (schema.Endpoint(url=""), 0.5),
        (schema.Multi(graders={"a": STRING_CHECK}, calculate_output="a"), 0.5),
    ],
    ids=range(9),
)
def test_default_threshold(grader: schema.Grader, threshold: float) -> None:
    assert schema.default_threshold(grader) == threshold


def test_default_threshold_of_the_widest_range_is_finite() -> None:
    top = sys.float_info.max
    grader = schema.ScoreModel(model="m", input=(), range=(top / 2, top))
    assert schema.default_threshold(grader) == top / 4 + top / 2


def test_types_are_the_seven_published_ones() -> None:
    assert list(schema.TYPES) == [
        *("string_check", "text_similarity", "score_model", "label_model"),
        *("python", "endpoint", "multi"),
    ]
    assert schema.type_of(STRING_CHECK) == "string_check"
