"""Conversations as samples."""

from typing import Any

import pytest

from graders.sample import Sample
from service.trainers.messages import sample_fields

CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}


@pytest.mark.parametrize(
    ("completion", "text"),
    [
        ("plain", "plain"),
        ("", ""),
        ([], ""),
        ({"role": "assistant", "content": "one"}, "one"),
        ([{"role": "assistant", "content": "one"}], "one"),
        ([{"content": "no role"}], "no role"),
        ([{"role": "assistant", "content": None}], ""),
        (
            [
                {
                    "role": "assistant",
                    "content": [
                        {"type": "text", "text": "a"},
                        {"type": "image", "image": object()},
                        "b",
                        {"type": "output_text", "text": "c"},
                    ],
                }
            ],
            "ac",
        ),
        ([{"role": "assistant", "content": "x", "tool_calls": None}], "x"),
    ],
)
def test_an_answer_of_text_alone_is_a_model_sample(completion: Any, text: str) -> None:
    assert sample_fields(completion) == {"model_sample": text}


def test_tool_calls_are_spelled_as_openai_spells_them() -> None:
    calls = [
        CALL,
        {"function": {"name": "g", "arguments": {"b": 2}}},  # TRL
        {"name": "h", "arguments": {}},  # bare
        {"name": "i"},
    ]
    sample = sample_fields({"role": "assistant", "content": "", "tool_calls": calls})["sample"]
    assert sample["output_tools"] == [
        CALL,
        {"type": "function", "function": {"name": "g", "arguments": '{"b": 2}'}},
        {"type": "function", "function": {"name": "h", "arguments": "{}"}},
        {"type": "function", "function": {"name": "i", "arguments": "{}"}},
    ]
    assert sample["choices"][0]["finish_reason"] == "tool_calls"
    assert sample["choices"][0]["message"]["tool_calls"] == sample["output_tools"]


def test_a_rollout_with_tools_gives_the_last_text_and_every_call() -> None:
    messages = [
        {"role": "assistant", "content": "I look it up.", "tool_calls": [CALL]},
        {"role": "tool", "content": "42"},
        {"role": "assistant", "content": "It is 42."},
    ]
    sample = sample_fields(messages)["sample"]
    assert sample["output_text"] == "It is 42."
    assert sample["output_tools"] == [CALL]
    assert sample["messages"] == messages
    assert sample["choices"][0]["finish_reason"] == "stop"
    assert Sample.from_object(sample).namespace["output_tools"] == [CALL]


def test_a_rollout_without_an_answer_has_an_empty_text() -> None:
    sample = sample_fields([{"role": "tool", "content": "x"}, {"role": "user", "content": "y"}])
    assert sample["sample"]["output_text"] == ""


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning", "thinking"])
def test_reasoning_is_kept_beside_the_text(key: str) -> None:
    sample = sample_fields({"role": "assistant", "content": "x", key: "because"})["sample"]
    assert (sample["output_text"], sample["output_reasoning_summary"]) == ("x", "because")


@pytest.mark.parametrize("completion", [None, 7, b"bytes", ["text"], [None]])
def test_anything_else_is_no_completion(completion: Any) -> None:
    with pytest.raises(TypeError, match="expected"):
        sample_fields(completion)
