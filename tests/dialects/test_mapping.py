"""How URLs say what becomes of prompt, response and label, and what is wrong with them."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from graders.errors import RowError
from service.dialects import DIALECTS
from service.dialects.contract import ParameterError, Pick
from service.dialects.mapping import at, fill
from tests.dialects.world import LABEL_AT, options, reading, row, takes_label, unlabelled


@pytest.mark.parametrize(
    ("query", "name", "message"),
    [
        ("lable=x", "lable", "no parameter of slime; did you mean label?"),
        ("zzz=1", "zzz", "known: prompt, label"),
        ("label=a&label=b", "label", "stands twice"),
        ("item.a=b&item.a=c", "item.a", "stands twice"),
        ("label=a.b", "label", "expected the name of an item field"),
        ("prompt=%20", "prompt", "expected the name of an item field"),
        ("item.=label", "item.", "expected item. and the name of a field"),
        ("item.a=", "item.a", "expected keys joined by dots, got ''"),
        ("item.a=b..c", "item.a", "expected keys joined by dots"),
        ("sample=.", "sample", "expected keys joined by dots"),
        ("on_grader_failure=mask", "on_grader_failure", "expected error or zero, got 'mask'"),
        ("reply=xml", "reply", "expected number or object"),
        ("label=%ff", "query", "not UTF-8"),
        ("&".join(f"item.f{n}=a" for n in range(65)), "query", "too many parameters"),
        ("label=" + "x" * 5000, "query", "longer than 4096 characters"),
    ],
)
def test_an_unusable_parameter_is_named(query: str, name: str, message: str) -> None:
    with pytest.raises(ParameterError, match=f"^{name}") as caught:
        options("slime", query)
    assert caught.value.name == name
    assert message in str(caught.value)


def test_the_example_of_the_documentation() -> None:
    query = "label=reference&prompt=question&item.difficulty=metadata.difficulty"
    body = {"prompt": "2+2?", "response": "4", "label": "4", "metadata": {"difficulty": 3}}
    item, sample = row("slime", body, query)
    assert item == {"question": "2+2?", "reference": "4", "difficulty": 3}
    assert sample["output_text"] == "4"


def test_empty_names_leave_prompt_and_label_out() -> None:
    body = {"prompt": "q", "response": "r", "label": "l"}
    assert row("slime", body, "prompt=&label=")[0] == {}


def test_percent_encoding_is_read() -> None:
    assert options("slime", "item.a=x%20y.z").picks == (Pick("a", ("x y", "z")),)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("a.b", 1),
        ("list.1", "y"),
        ("text.answer", 42),  # texts that hold JSON are gone into, as in templates
        ("none", None),
    ],
)
def test_paths(path: str, value: Any) -> None:
    source = {"a": {"b": 1}, "list": ["x", "y"], "text": '{"answer": 42}', "none": None}
    assert at(source, tuple(path.split(".")), "item.x") == value


@pytest.mark.parametrize("path", ["nowhere", "a.b.c", "list.2", "list.x", "text.x", "none.x"])
def test_a_path_that_leads_nowhere_names_its_parameter(path: str) -> None:
    source = {"a": {"b": 1}, "list": ["x", "y"], "text": "{", "none": None}
    with pytest.raises(RowError, match=r"^parameter item\.x: the request has no "):
        at(source, tuple(path.split(".")), "item.x")


def test_what_the_caller_does_not_send_is_not_in_the_item() -> None:
    assert fill({"a": 1}, options("slime")) == {"a": 1}
    assert fill({}, options("slime"), prompt=None, label=None) == {}


@pytest.mark.parametrize("dialect", [*filter(takes_label, DIALECTS)])
@pytest.mark.parametrize("sent", ["nothing", "null"])
def test_a_label_that_is_not_sent_is_not_in_the_item(dialect: str, sent: str) -> None:
    body = unlabelled(dialect) if sent == "nothing" else unlabelled(dialect, None)
    ((item, _),) = reading(dialect, body, "label=truth").rows
    assert "truth" not in item
    ((item, _),) = reading(dialect, body).rows
    assert DIALECTS[dialect].parameters[1].default not in item


# dialect → where its data set's own fields stand in the example
ROW_AT: dict[str, tuple[str | int, ...]] = {
    "nemo-gym": (),
    "aws": (0,),
    "google": ("example", "references"),
    "promptfoo": ("context", "vars"),
    "eval-protocol": (),
    "roll": ("reward_info",),
}


@pytest.mark.parametrize("dialect", ROW_AT)
def test_a_prompt_never_overwrites_the_data_sets_own_field(dialect: str) -> None:
    body: Any = copy.deepcopy(DIALECTS[dialect].example)
    assert row(dialect, body, "prompt=question")[0]["question"] == "Capital of France?"
    place = body
    for step in ROW_AT[dialect]:
        place = place[step]
    place["question"] = "its own"
    assert row(dialect, body, "prompt=question")[0]["question"] == "its own"
    taken, _ = row(dialect, body, f"prompt=question&item.question={LABEL_AT[dialect]}")
    assert taken["question"] == "Paris"  # a path that the URL states still counts


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_dialect_takes_the_output_from_elsewhere(dialect: str) -> None:
    example: Any = DIALECTS[dialect].example
    text = str(example).replace("Capital of France? Paris", "Capital of France? Lyon")
    assert "Paris" in text
    ((_, sample),) = reading(dialect, example, f"sample={LABEL_AT[dialect]}").rows
    assert sample.output_text == "Paris"


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_dialect_takes_further_fields(dialect: str) -> None:
    example: Any = DIALECTS[dialect].example
    item, _ = row(dialect, example, f"item.extra={LABEL_AT[dialect]}")
    assert item["extra"] == "Paris"
