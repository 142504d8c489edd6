"""Conversations in trainers' formats as the ``sample`` that graders read (spec §2.3).

A completion is a text, one message, or the list of messages that one rollout produced: the
assistant's answers and, with tools, the tools' replies between them. The text is that of the last
answer; tool calls are those of every answer, in order.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

_REASONING = ("reasoning_content", "reasoning", "thinking")  # vLLM and SGLang, OpenRouter, TRL


def sample_fields(completion: object) -> dict[str, Any]:
    """Return the part of a row that holds the model's output.

    ``{"model_sample": text}`` where text is all there is, else ``{"sample": {…}}`` with
    ``choices``, ``output_text``, ``output_tools``, ``output_reasoning_summary`` and, after several
    turns, ``messages``.

    Args:
        completion: A text, a message (``{"role", "content", …}``), or a list of messages.

    Raises:
        TypeError: It is none of these.
    """
    if isinstance(completion, str):
        return {"model_sample": completion}
    messages = _messages(completion)
    answers = [m for m in messages if m.get("role", "assistant") == "assistant"]
    text = text_of(answers[-1]) if answers else ""
    calls = [_call(call) for answer in answers for call in answer.get("tool_calls") or ()]
    reasoning = "\n".join(filter(None, map(_reasoning, answers)))
    if len(messages) <= 1 and not calls and not reasoning:
        return {"model_sample": text}
    message = {"role": "assistant", "content": text, "tool_calls": calls}
    finish_reason = "tool_calls" if answers and answers[-1].get("tool_calls") else "stop"
    sample: dict[str, Any] = {
        "choices": [{"index": 0, "message": message, "finish_reason": finish_reason}],
        "output_text": text,
        "output_tools": calls,
        "output_reasoning_summary": reasoning or None,
    }
    if len(messages) > 1:
        sample["messages"] = messages
    return {"sample": sample}


def text_of(message: Mapping[str, Any]) -> str:
    """Return the text of ``message``: its content, or the text parts of it put together."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, Sequence) else ()
    texts = [part.get("text") for part in parts if isinstance(part, Mapping)]
    return "".join(text for text in texts if isinstance(text, str))


def _messages(completion: object) -> list[dict[str, Any]]:
    found = [completion] if isinstance(completion, Mapping) else completion
    if isinstance(found, bytes) or not isinstance(found, Sequence):
        raise TypeError(f"expected a text or messages, got {type(completion).__name__}")
    for message in found:
        if not isinstance(message, Mapping):
            raise TypeError(f"expected messages, got a list with {type(message).__name__}")
    return [dict(message) for message in found]


def _reasoning(message: Mapping[str, Any]) -> str:
    return next((value for key in _REASONING if isinstance(value := message.get(key), str)), "")


def _call(call: Mapping[str, Any]) -> dict[str, Any]:
    """Return a tool call with ``arguments`` as JSON text, as OpenAI spells it."""
    function = call.get("function")
    spelled = dict(function if isinstance(function, Mapping) else call)
    arguments = spelled.get("arguments")
    if not isinstance(arguments, str):
        spelled["arguments"] = json.dumps({} if arguments is None else arguments)
    if not isinstance(function, Mapping):
        return {"type": "function", "function": spelled}
    return {"type": "function", **call, "function": spelled}
