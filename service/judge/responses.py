"""The Responses API on the wire: question → body, body → outcome. Pure."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from graders.grade import TokenUsage
from graders.ports import JudgeCall
from service.judge.chat import EnvelopeError, dropped, instructed, read, sampling, stated_usage
from service.judge.outcome import Answer, JsonObject
from service.judge.routes import Route

_FINISH_REASONS: Final = {"max_output_tokens": "length", "content_filter": "content_filter"}


class _InputDetails(msgspec.Struct):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct):
    input_tokens: int | None = None
    output_tokens: int | None = None
    total_tokens: int | None = None
    input_tokens_details: _InputDetails | None = None

    def tokens(self) -> TokenUsage:
        details = self.input_tokens_details
        cached = details.cached_tokens if details else None
        return stated_usage(self.input_tokens, self.output_tokens, self.total_tokens, cached)


class _Part(msgspec.Struct):
    type: str = ""
    text: str | None = None
    refusal: str | None = None


class _Item(msgspec.Struct):
    type: str = ""
    content: list[_Part] | None = None


class _Incomplete(msgspec.Struct):
    reason: str | None = None


class _Response(msgspec.Struct):
    output: list[_Item]
    status: str | None = None
    model: str | None = None
    usage: _Usage | None = None
    incomplete_details: _Incomplete | None = None


_RESPONSE: Final = msgspec.json.Decoder(_Response)


def responses_body(call: JudgeCall, route: Route, model: str) -> JsonObject:
    """Return the request body of ``POST /responses``; nothing is stored upstream."""
    messages: list[JsonObject] = call.messages
    request: JsonObject = {"model": model, "store": False}
    match route.structured_output:
        case "json_schema":
            kind = {"type": "json_schema", "name": call.schema_name, "strict": True}
            request["text"] = {"format": kind | {"schema": call.schema}}
        case "json_object":
            messages = instructed(messages, call.schema)
            request["text"] = {"format": {"type": "json_object"}}
        case "prompt":
            messages = instructed(messages, call.schema)
    request["input"] = [_message(message, route) for message in messages]
    for name, value in sampling(call).items():
        if name == "max_completions_tokens":
            request["max_output_tokens"] = value
        elif name == "reasoning_effort":
            request["reasoning"] = {"effort": value}
        elif name not in dropped(call, route):
            request[name] = value
    return request


def responses_answer(raw: bytes, call: JudgeCall, route: Route, model: str) -> Answer:
    """Return what the judge wrote.

    Raises:
        EnvelopeError: The body is not a finished response.
    """
    try:
        response = _RESPONSE.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise EnvelopeError("the body is not a response") from error
    if response.status not in {None, "completed", "incomplete"}:
        raise EnvelopeError("the response did not complete")
    parts = [p for item in response.output if item.type == "message" for p in item.content or ()]
    texts = [part.text for part in parts if part.type == "output_text" and part.text is not None]
    refusals = [part.refusal for part in parts if part.type == "refusal" and part.refusal]
    reason = response.incomplete_details.reason if response.incomplete_details else None
    incomplete = response.status == "incomplete"
    return read(
        "".join(texts) if texts else None,
        call,
        route,
        refusal="".join(refusals) or None,
        finish_reason=_FINISH_REASONS.get(reason or "", "length") if incomplete else "stop",
        model=response.model or model,
        usage=response.usage.tokens() if response.usage else TokenUsage(),
    )


def _message(message: JsonObject, route: Route) -> JsonObject:
    role = message["role"]
    if role == "developer" and not route.developer_role:
        role = "system"
    content = message["content"]
    if isinstance(content, str):
        return {"role": role, "content": content}
    return {"role": role, "content": [_part(part, role) for part in content]}


def _part(part: dict[str, Any], role: str) -> JsonObject:
    match part.get("type"):
        case "text":
            return {
                "type": "output_text" if role == "assistant" else "input_text",
                "text": part["text"],
            }
        case "image_url":
            image = part["image_url"]
            return {
                "type": "input_image",
                "image_url": image["url"],
                "detail": image.get("detail", "auto"),
            }
        case _:
            return dict(part)
