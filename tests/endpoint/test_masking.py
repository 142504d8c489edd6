"""Headers of endpoint graders never leave the service."""

import json
from typing import Any

import pytest

from service.masking import MASK, masked, masked_text

SECRET = {"type": "endpoint", "url": "https://a.test", "headers": {"Authorization": "s3cret"}}
PLAIN = {"type": "string_check", "operation": "eq", "input": "a", "reference": "b"}


def test_header_values_are_hidden_and_names_shown() -> None:
    assert masked(SECRET)["headers"] == {"Authorization": MASK}
    assert SECRET["headers"] == {"Authorization": "s3cret"}
    assert MASK == "*" * 10


@pytest.mark.parametrize(
    "graders",
    [{"a": SECRET, "b": PLAIN}, [{"name": "a", **SECRET}, PLAIN, 7]],
    ids=["map", "list"],
)
def test_parts_of_a_multi_are_hidden_too(graders: Any) -> None:
    shown = masked({"type": "multi", "graders": graders, "calculate_output": "a"})
    assert "s3cret" not in json.dumps(shown)
    assert MASK in json.dumps(shown)


@pytest.mark.parametrize(
    "document",
    [
        PLAIN,
        {"type": "endpoint", "url": "u"},
        {"type": "endpoint", "url": "u", "headers": {}},
        {"type": "multi", "graders": {"a": PLAIN, "b": 1}},
        {"type": "multi", "graders": None},
        {**PLAIN, "headers": {"column": "names"}},
    ],
)
def test_documents_without_secrets_stay_the_same_object(document: dict[str, Any]) -> None:
    assert masked(document) is document


def test_headers_of_the_wrong_shape_are_hidden_whole() -> None:
    assert masked({**SECRET, "headers": ["Authorization: s3cret"]})["headers"] == MASK


def test_stored_text_stays_byte_for_byte_unless_it_hides_something() -> None:
    text = b'{ "type": "string_check",\n "input": "\\u0041" }'
    assert masked_text(text) is text
    assert masked_text(b'{"type": "x"}') == b'{"type": "x"}'
    assert b"s3cret" not in masked_text(json.dumps(SECRET).encode())


@pytest.mark.attack
def test_an_escaped_key_is_found() -> None:
    text = b'{"type":"endpoint","url":"u","he\\u0061ders":{"A":"s3cret"}}'
    assert b"s3cret" not in masked_text(text)
