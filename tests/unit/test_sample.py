from typing import Any

import pytest

from graders.errors import RowError
from graders.sample import Sample, parse_json_text

CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def choice(**message: Any) -> dict[str, Any]:
    return {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": "stop"}


def test_bare_text_has_the_live_namespace() -> None:
    assert Sample('{"a": 1}').namespace == {
        "choices": [choice(content='{"a": 1}', tool_calls=[])],
        "output_text": '{"a": 1}',
        "output_json": {"a": 1},
        "output_tools": [],
        "output_reasoning_summary": None,
    }


def test_namespace_is_built_once() -> None:
    sample = Sample("x")
    assert sample.namespace is sample.namespace


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": [1.5, null]}', {"a": [1.5, None]}),
        ("0.9", 0.9),
        (' "text" ', "text"),
        ("[1]", [1]),
        ("null", None),
        ("", None),
        ("{", None),
        ("NaN", None),
        ("{'a': 1}", None),
        ("```json\n{}\n```", None),
        ("[" * 100_000, None),
        ('"\ud800"', None),
        ("1e999", None),
    ],
    ids=range(13),
)
def test_output_json_is_the_text_where_it_is_json(text: str, value: Any) -> None:
    assert Sample(text).output_json == value
    assert parse_json_text(text) == value


def test_object_with_text_derives_the_rest() -> None:
    sample = Sample.from_object({"output_text": "7"})
    assert sample.output_text == "7"
    assert sample.output_json == 7
    assert sample.namespace["choices"] == [choice(content="7", tool_calls=[])]
    assert sample.namespace["output_tools"] == []


def test_object_with_choices_gives_text_and_tools() -> None:
    sample = Sample.from_object({"choices": [choice(content="hi", tool_calls=[CALL])]})
    assert sample.output_text == "hi"
    assert sample.namespace["output_tools"] == [CALL]


def test_given_keys_win_over_derived_ones() -> None:
    fields = {
        "output_text": "a",
        "output_json": {"b": 1},
        "output_tools": [CALL],
        "choices": [choice(content="c", tool_calls=[])],
        "trace": "kept",
    }
    sample = Sample.from_object(fields)
    assert sample.namespace == fields
    assert sample.output_json == {"b": 1}


def test_output_json_given_as_null_is_not_parsed_again() -> None:
    assert Sample.from_object({"output_text": "7", "output_json": None}).output_json is None


@pytest.mark.parametrize(
    "choices",
    [[], ["x"], [{}], [{"message": None}], [choice(content=None)], [choice(content=[1])]],
    ids=range(6),
)
def test_choices_without_text_give_empty_text_and_no_tools(choices: list[Any]) -> None:
    sample = Sample.from_object({"choices": choices})
    assert sample.output_text == ""
    assert sample.namespace["output_tools"] == []
    assert sample.namespace["choices"] == choices


def test_object_without_anything_is_an_empty_sample() -> None:
    sample = Sample.from_object({})
    assert sample.output_text == ""
    assert sample.output_json is None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"output_text": 5}, "sample.output_text: expected a string, got an integer"),
        ({"output_tools": {}}, "sample.output_tools: expected an array, got an object"),
        ({"choices": "x"}, "sample.choices: expected an array, got a string"),
        ({"choices": ("x",)}, "sample.choices: expected an array, got tuple"),  # a trainer's own
    ],
)
def test_known_keys_of_another_type_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(RowError) as raised:
        Sample.from_object(fields)
    assert str(raised.value) == message


@pytest.mark.parametrize("fields", [{}, {"output_txt": "Paris"}], ids=["empty", "misspelt"])
def test_answer_without_a_known_key_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(RowError, match="sample: expected at least one of choices, output_json"):
        Sample.from_answer(fields)


def test_answer_with_a_known_key_is_the_sample() -> None:
    assert Sample.from_answer({"output_text": "Paris"}).output_text == "Paris"
