"""Conversations in every format become the ``sample`` of spec §2.3."""

from __future__ import annotations

from typing import Any

import pytest

from graders.errors import RowError
from service.dialects.conversation import (
    prompt_text,
    sample_of,
    sample_of_items,
    sample_of_messages,
    split,
    split_reasoning,
    text_of,
    without_end_tokens,
)
from tests.dialects.world import options

KEEP = options("slime", "end_tokens=keep")
TEXT = {"type": "output_text", "text": "a"}
REFUSAL = {"type": "refusal", "refusal": "no"}
CALL = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "get", "arguments": '{"city": "Paris"}'},
}


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(content: Any, **fields: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **fields}


def test_a_plain_text_has_the_live_shape() -> None:
    assert sample_of("Paris", KEEP).namespace == {
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Paris", "tool_calls": []},
                "finish_reason": "stop",
            }
        ],
        "output_text": "Paris",
        "output_json": None,
        "output_tools": [],
        "output_reasoning_summary": None,
    }


def test_output_json_is_the_parsed_text() -> None:
    assert sample_of([assistant('{"a": 1}')], KEEP).namespace["output_json"] == {"a": 1}


def test_the_output_is_what_follows_the_last_user_message() -> None:
    messages = [user("a"), assistant("b"), user("c"), assistant("d"), assistant("e")]
    asked, answered = split(messages)
    assert (len(asked), len(answered)) == (3, 2)
    assert sample_of_messages(answered, KEEP).output_text == "e"
    assert prompt_text(asked) == "c"


def test_a_system_message_behind_the_user_is_prompt() -> None:
    asked, answered = split([user("a"), {"role": "system", "content": "s"}, assistant("b")])
    assert [len(asked), len(answered)] == [2, 1]


def test_no_user_message_gives_no_prompt_text() -> None:
    assert prompt_text([{"role": "system", "content": "s"}]) == ""


def test_a_conversation_without_an_answer_is_refused() -> None:
    with pytest.raises(RowError, match="does not end with a message of the model"):
        sample_of_messages(split([user("a")])[1], KEEP)


def test_tool_calls_of_all_turns_are_kept_and_the_last_text_counts() -> None:
    messages = [
        assistant("let me see", tool_calls=[CALL]),
        {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
        assistant("It is sunny."),
    ]
    sample = sample_of(messages, KEEP).namespace
    assert sample["output_text"] == "It is sunny."
    assert sample["output_tools"] == [CALL]
    assert sample["choices"][0]["message"]["tool_calls"] == [CALL]
    assert sample["choices"][0]["finish_reason"] == "stop"


def test_only_a_tool_call_finishes_with_tool_calls() -> None:
    sample = sample_of(assistant(None, tool_calls=[CALL]), KEEP).namespace
    assert sample["output_text"] == ""
    assert sample["choices"][0]["finish_reason"] == "tool_calls"


@pytest.mark.parametrize(
    "call",
    [
        CALL,
        {**CALL, "function": {"name": "get", "arguments": {"city": "Paris"}}},
        {"id": "call_1", "name": "get", "arguments": '{"city": "Paris"}'},
        {"id": "call_1", "name": "get", "arguments": {"city": "Paris"}},
    ],
    ids=["chat", "object-arguments", "flat", "flat-object"],
)
def test_tool_calls_of_messages_are_spelled_as_chat_completions(call: dict[str, Any]) -> None:
    assert sample_of(assistant("", tool_calls=[call]), KEEP).namespace["output_tools"] == [CALL]


@pytest.mark.parametrize(
    "block",
    [
        {"type": "tool_use", "id": "call_1", "name": "get", "input": {"city": "Paris"}},
        {"toolUse": {"toolUseId": "call_1", "name": "get", "input": {"city": "Paris"}}},
        {"functionCall": {"id": "call_1", "name": "get", "args": {"city": "Paris"}}},
    ],
    ids=["anthropic", "bedrock", "google"],
)
def test_tool_calls_in_content_blocks(block: dict[str, Any]) -> None:
    sample = sample_of(assistant([{"type": "text", "text": "so"}, block]), KEEP).namespace
    assert sample["output_text"] == "so"
    assert sample["output_tools"] == [CALL]


def test_the_call_of_before_tool_calls() -> None:
    old = {"name": "get", "arguments": "{}"}
    (call,) = sample_of(assistant(None, function_call=old), KEEP).namespace["output_tools"]
    assert call == {"id": "", "type": "function", "function": old}


def test_responses_items() -> None:
    items = [
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "think"}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "a"}]},
        {"type": "function_call", "call_id": "call_1", "name": "get", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "call_1", "output": "b"},
        {"type": "web_search_call", "id": "ws_1"},
        {"type": "custom_tool_call", "call_id": "call_2", "name": "raw", "input": "x"},
        {"type": "message", "role": "user", "content": "c"},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "d"}]},
    ]
    sample = sample_of({"object": "response", "output": items}, KEEP).namespace
    assert sample["output_text"] == "d"
    assert sample["output_reasoning_summary"] == "think"
    assert sample["output_tools"] == [
        {"id": "call_1", "type": "function", "function": {"name": "get", "arguments": "{}"}},
        {"id": "call_2", "type": "custom", "custom": {"name": "raw", "input": "x"}},
    ]
    assert sample_of(items, KEEP).namespace == sample


@pytest.mark.parametrize(
    ("item", "text"),
    [
        ({"type": "message", "role": "assistant", "content": [TEXT]}, "a"),
        ({"type": "message", "role": "assistant", "content": "a"}, "a"),
        ({"type": "message", "role": "assistant", "content": []}, ""),
        ({"type": "message", "role": "assistant", "content": [REFUSAL]}, ""),
        ({"type": "message", "role": "assistant", "content": ["a"]}, "a"),
        ({"type": "message", "role": "user", "content": [TEXT]}, ""),
        ({"role": "assistant", "content": "a"}, "a"),
    ],
)  # fmt: skip
def test_a_single_item(item: dict[str, Any], text: str) -> None:
    assert sample_of_items([item], KEEP).output_text == text


def test_a_single_item_with_a_refusal_beside_its_text() -> None:
    part = {"type": "output_text", "text": "a"}
    item = {"type": "message", "role": "assistant", "content": [part], "refusal": "no"}
    message = sample_of_items([item], KEEP).namespace["choices"][0]["message"]
    assert (message["content"], message["refusal"]) == ("a", "no")


def test_an_item_that_is_no_object_is_refused() -> None:
    bad: Any = ["text"]
    with pytest.raises(RowError, match="must be an object"):
        sample_of_items(bad, KEEP)


@pytest.mark.parametrize(
    "message",
    [
        assistant("a", reasoning_content="think"),
        assistant("a", reasoning="think"),
        assistant([{"type": "thinking", "thinking": "think"}, {"type": "text", "text": "a"}]),
        assistant([{"reasoningContent": {"reasoningText": {"text": "think"}}}, {"text": "a"}]),
        {"role": "model", "parts": [{"text": "think", "thought": True}, {"text": "a"}]},
    ],
    ids=["deepseek", "openrouter", "anthropic", "bedrock", "google"],
)
def test_reasoning_of_every_format(message: dict[str, Any]) -> None:
    sample = sample_of(message, KEEP).namespace
    assert sample["output_text"] == "a"
    assert sample["output_reasoning_summary"] == "think"


@pytest.mark.parametrize(
    "message",
    [
        assistant(None, refusal="no"),
        assistant([{"type": "refusal", "refusal": "no"}]),
    ],
)
def test_a_refusal_is_kept_and_is_no_text(message: dict[str, Any]) -> None:
    sample = sample_of(message, KEEP).namespace
    assert sample["output_text"] == ""
    assert sample["choices"][0]["message"]["refusal"] == "no"


def test_a_chat_completion() -> None:
    completion = {"choices": [{"message": {"role": "assistant", "content": "a"}}]}
    assert sample_of(completion, KEEP).output_text == "a"
    assert sample_of({"choices": []}, KEEP).output_text == ""


@pytest.mark.parametrize("value", [{"city": "Paris"}, [1, 2], [], 4, True, None, {"role": "x"}])
def test_any_other_json_is_its_own_output_json(value: Any) -> None:
    sample = sample_of(value, KEEP).namespace
    assert sample["output_json"] == value


@pytest.mark.parametrize(
    ("text", "short"),
    [
        ("Paris<|im_end|>", "Paris"),
        ("Paris<|eom_id|>", "Paris"),
        ("Paris<eos><pad><pad>", "Paris"),
        ("Paris</s>\n", "Paris"),
        ("Paris<|eot_id|><|end_of_text|>", "Paris"),
        ("Paris \n", "Paris \n"),  # without a token nothing is touched
        ("<s>Paris", "<s>Paris"),
        ("", ""),
    ],
)
def test_end_tokens(text: str, short: str) -> None:
    assert without_end_tokens(text) == short
    assert sample_of(text, options("slime")).output_text == short
    assert sample_of(text, KEEP).output_text == text


@pytest.mark.parametrize(
    ("text", "answer", "reasoning"),
    [
        ("<think>a</think>b", "b", "a"),
        ("\n<think>\na\n</think>\n\nb", "b", "a"),
        ("a</think>b", "b", "a"),  # the opening tag was in the prompt
        ("<think>a", "", "a"),  # cut while thinking: no answer
        ("b", "b", None),
    ],
)
def test_reasoning_tags(text: str, answer: str, reasoning: str | None) -> None:
    assert split_reasoning(text) == (answer, reasoning)
    sample = sample_of([assistant(text)], options("slime", "reasoning=split")).namespace
    assert sample["output_text"] == answer
    assert sample["output_reasoning_summary"] == reasoning
    assert sample_of(text, KEEP).output_text == text


def test_reasoning_tags_beside_reasoning_fields() -> None:
    message = assistant("<think>b</think>c", reasoning_content="a")
    sample = sample_of(message, options("slime", "reasoning=split")).namespace
    assert sample["output_reasoning_summary"] == "a\nb"
    assert sample["output_text"] == "c"


def test_text_of_what_is_no_text_is_empty() -> None:
    assert text_of({"type": "image_url"}) == text_of(None) == text_of(3) == ""
