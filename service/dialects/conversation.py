"""Conversations in any caller's format → ``sample`` as templates address it (spec §2.3).

Understood are Chat Completions messages, items of the Responses API, and content blocks of
OpenAI, Anthropic, Bedrock and Google. One rule decides what the output is: everything the model
said after the last user message. ``output_text`` is the text of the last turn in it, the tool calls
are all of them in order.
"""

from __future__ import annotations

import json
from typing import Any

from graders.errors import RowError
from graders.sample import JsonValue, Sample
from service.dialects.contract import Options

Message = dict[str, Any]

_MODEL_ROLES = frozenset({"assistant", "nova_assistant", "model"})
_USER_ROLES = frozenset({"user", "nova_user", "human"})
_ITEM_TYPES = frozenset(
    {
        "message",
        "reasoning",
        "function_call",
        "function_call_output",
        "custom_tool_call",
        "custom_tool_call_output",
    }
)
_END_TOKENS = (
    "</s>",
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end_of_text|>",
    "<|endoftext|>",
    "<|end|>",
    "<|return|>",
    "<end_of_turn>",
    "<eos>",
    "<pad>",
    "<\uff5cend\u2581of\u2581sentence\uff5c>",  # DeepSeek's wide bars
)
_PLAIN = frozenset({"content", "id", "role", "status", "type"})
_THINK, _THOUGHT = "<think>", "</think>"


def sample_of_text(text: str, options: Options) -> Sample:
    """Return the sample of a raw text."""
    if options.strips_end_tokens:
        text = without_end_tokens(text)
    if options.splits_reasoning:
        text, reasoning = split_reasoning(text)
        if reasoning is not None:
            return _sample(text, [], [reasoning])
    return Sample(text)


def sample_of(output: JsonValue, options: Options) -> Sample:
    """Return the sample that ``output`` is: a text, messages, items, blocks, or any other JSON.

    Raises:
        RowError: It looks like a conversation and has no turn of the model.
    """
    if isinstance(output, str):
        return sample_of_text(output, options)
    if isinstance(output, dict):
        if isinstance(output.get("output"), list) and output.get("object") == "response":
            return sample_of_items(output["output"], options)
        if isinstance(output.get("choices"), list):
            message = (output["choices"] or [{}])[0].get("message") or {}
            return sample_of_messages([{**message, "role": "assistant"}], options)
        if output.get("role") in _MODEL_ROLES:
            return sample_of_messages([output], options)
    if isinstance(output, list) and output and all(isinstance(part, dict) for part in output):
        if any(part.get("type") in _ITEM_TYPES for part in output):
            return sample_of_items(output, options)
        if all("role" in part for part in output):
            return sample_of_messages(output, options)
    text = json.dumps(output, ensure_ascii=False)
    return Sample.from_object({"output_text": text, "output_json": output})


def split(messages: list[Message]) -> tuple[list[Message], list[Message]]:
    """Return the prompt and the output: what stands before and after the last user message."""
    last = 0
    for number, message in enumerate(messages):
        if message.get("role") in _USER_ROLES:
            last = number + 1
    while last < len(messages) and messages[last].get("role") not in _MODEL_ROLES:
        last += 1  # a system message behind the user's is still prompt
    return messages[:last], messages[last:]


def prompt_text(messages: list[Message]) -> str:
    """Return the text of the last user message; ``""`` without one."""
    for message in reversed(messages):
        if message.get("role") in _USER_ROLES:
            return text_of(_content(message))
    return ""


def sample_of_messages(messages: list[Message], options: Options) -> Sample:
    """Return the sample of the output part of a conversation.

    Raises:
        RowError: No message of it is the model's.
    """
    turn = _Output()
    spoke = False
    for message in messages:
        if message.get("role") in _MODEL_ROLES:
            spoke = True
            turn.text.clear()
            turn.message(message)
    if not spoke:
        raise RowError("the conversation does not end with a message of the model")
    return turn.sample(options)


def sample_of_items(items: list[Message], options: Options) -> Sample:
    """Return the sample of a Responses API ``output`` list.

    Raises:
        RowError: An element is not an object.
    """
    if len(items) == 1 and (text := _only_text(items[0])) is not None:
        return sample_of_text(text, options)
    turn = _Output()
    for item in items:
        if not isinstance(item, dict):
            raise RowError("an output item must be an object")
        turn.item(item)
    return turn.sample(options)


def _only_text(item: JsonValue) -> str | None:
    """Return the text of a message that is nothing but one text, by far the commonest output."""
    if not isinstance(item, dict) or item.get("type") != "message" or not item.keys() <= _PLAIN:
        return None
    content = item.get("content")
    if item.get("role") == "assistant" and isinstance(content, list) and len(content) == 1:
        part = content[0]
        if isinstance(part, dict) and part.get("type") == "output_text":
            return text_of(part)
    return None


def text_of(content: JsonValue) -> str:
    """Return the text of a message's content: a text, or the texts of its blocks joined."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(text_of(block) for block in content)
    if isinstance(content, dict) and isinstance(content.get("text"), str):
        text: str = content["text"]
        return text
    return ""


def without_end_tokens(text: str) -> str:
    """Return ``text`` without the end-of-turn tokens behind it."""
    while (short := text.rstrip()).endswith(_END_TOKENS):
        token = next(token for token in _END_TOKENS if short.endswith(token))
        text = short[: -len(token)]
    return text


def split_reasoning(text: str) -> tuple[str, str | None]:
    """Return answer and reasoning of a text with ``<think>…</think>``; None without reasoning.

    The opening tag may be missing, because chat templates put it into the prompt. A thought that
    does not end leaves no answer.
    """
    thought, closed, answer = text.partition(_THOUGHT)
    opened = thought.lstrip().startswith(_THINK)
    if not opened and not closed:
        return text, None
    return answer.lstrip(), thought.strip().removeprefix(_THINK).strip()


class _Output:
    """Collects what the model said."""

    def __init__(self) -> None:
        self.text: list[str] = []
        self.calls: list[Message] = []
        self.reasoning: list[str] = []
        self.refusal: str | None = None

    def sample(self, options: Options) -> Sample:
        plain = sample_of_text("".join(self.text), options)
        if not (self.calls or self.reasoning or self.refusal):
            return plain
        reasoning = [*self.reasoning]
        split_off = plain.namespace.get("output_reasoning_summary")
        if split_off:
            reasoning.append(split_off)
        return _sample(plain.output_text, self.calls, reasoning, self.refusal)

    def message(self, message: Message) -> None:
        """Take one message of the model."""
        for key in ("reasoning_content", "reasoning", "thinking"):
            if isinstance(message.get(key), str) and message[key]:
                self.reasoning.append(message[key])
                break
        content = _content(message)
        for block in content if isinstance(content, list) else [content]:
            self.block(block)
        calls = message.get("tool_calls")
        self.calls += [_call(call) for call in calls or [] if isinstance(call, dict)]
        if isinstance(message.get("function_call"), dict):  # before tool_calls
            self.calls.append(_call(message["function_call"]))
        if isinstance(message.get("refusal"), str):
            self.refusal = message["refusal"]

    def item(self, item: Message) -> None:
        """Take one item of a Responses ``output`` list."""
        match item.get("type"):
            case "message" | None:
                if item.get("role", "assistant") in _MODEL_ROLES:
                    self.message(item)
            case "reasoning":
                parts = item.get("summary") or item.get("content") or []
                self.reasoning += [text for part in parts if (text := text_of(part))]
            case "function_call" | "custom_tool_call":
                self.calls.append(_call(item))
            case "function_call_output" | "custom_tool_call_output":
                self.text.clear()  # a new turn begins
            case _:  # searches, file look-ups and the like say nothing of their own
                pass

    def block(self, block: JsonValue) -> None:
        """Take one content block."""
        if not isinstance(block, dict):
            self.text.append(text_of(block))
            return
        for key in ("toolUse", "functionCall"):  # Bedrock, Google
            if isinstance(block.get(key), dict):
                self.calls.append(_call(block[key]))
                return
        if block.get("type") == "tool_use":  # Anthropic
            self.calls.append(_call(block))
        elif block.get("type") == "refusal":
            self.refusal = str(block.get("refusal"))
        elif block.get("type") == "thinking":
            self.reasoning.append(str(block.get("thinking") or ""))
        elif block.get("thought") is True:
            self.reasoning.append(text_of(block))
        elif isinstance(block.get("reasoningContent"), dict):
            self.reasoning.append(text_of(block["reasoningContent"].get("reasoningText")))
        else:
            self.text.append(text_of(block))


def _content(message: Message) -> JsonValue:
    return (
        message["parts"]
        if "content" not in message and "parts" in message
        else message.get("content")
    )


def _call(call: Message) -> Message:
    """Return a tool call of any format as Chat Completions spells it."""
    if isinstance(call.get("function"), dict):
        function = call["function"]
        if isinstance(function.get("arguments"), str):
            return call
        return {**call, "function": {**function, "arguments": _text(function.get("arguments"))}}
    identity = call.get("call_id") or call.get("id") or call.get("toolUseId") or ""
    if call.get("type") in {"custom", "custom_tool_call"}:
        custom = call.get("custom") or {"name": call.get("name"), "input": call.get("input")}
        return {"id": identity, "type": "custom", "custom": custom}
    arguments: JsonValue = next(
        (call[key] for key in ("arguments", "input", "args") if key in call), {}
    )
    function = {"name": call.get("name"), "arguments": _text(arguments)}
    return {"id": identity, "type": "function", "function": function}


def _text(arguments: JsonValue) -> str:
    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)


def _sample(
    text: str, calls: list[Message], reasoning: list[str], refusal: str | None = None
) -> Sample:
    message: Message = {"role": "assistant", "content": text, "tool_calls": calls}
    if refusal is not None:
        message["refusal"] = refusal
    finish = "tool_calls" if calls and not text else "stop"
    return Sample.from_object(
        {
            "choices": [{"index": 0, "message": message, "finish_reason": finish}],
            "output_text": text,
            "output_tools": calls,
            "output_reasoning_summary": "\n".join(reasoning) or None,
        }
    )
