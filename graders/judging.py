"""What ``score_model`` and ``label_model`` share: rendered messages in, a checked ``result`` out.

The messages go to the judge unchanged and in order, without a system prompt of ours (spec §3.3).
Of the reply only ``result`` is read, from one JSON object in the form that the response schema asks
for; text around that object makes the reply unusable.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from graders import schema
from graders.building import Builder, Item
from graders.errors import (
    ModelGraderParseError,
    ModelGraderRefusalError,
    ModelGraderTokenLimitError,
)
from graders.ports import JudgeCall, JudgeReply
from graders.sample import JsonValue, Sample, parse_json_text
from graders.wording import shortened

_Part = Callable[[Item, Sample], dict[str, Any]]


def response_schema(result: dict[str, Any]) -> dict[str, Any]:
    """Return the strict JSON schema of a judge's reply, with ``result`` as the verdict's schema.

    Source: spec §3.3 (published staff code); ``steps`` come first, as in recorded replies.
    """
    text = {"type": "string"}
    step = {
        "type": "object",
        "additionalProperties": False,
        "required": ["description", "conclusion"],
        "properties": {
            "description": {
                **text,
                "description": "Detailed description of the reasoning in this step.",
            },
            "conclusion": {**text, "description": "The conclusion of the reasoning in this step."},
        },
    }
    steps = {
        "type": "array",
        "description": "A sequence of steps outlining the reasoning process.",
        "items": step,
    }
    return {
        "type": "object",
        "additionalProperties": False,
        "required": ["steps", "result"],
        "properties": {"steps": steps, "result": result},
    }


def build_request(
    grader: schema.ScoreModel | schema.LabelModel,
    builder: Builder,
    pointer: str,
    *,
    schema_name: str,
    result: dict[str, Any],
) -> Callable[[Item, Sample], JudgeCall]:
    """Return what renders the messages of ``grader`` into a call of its judge."""
    if not grader.input:
        builder.invalid(f"{pointer}/input", "expected at least one message.")
    messages = [
        _message(message, builder, f"{pointer}/input/{index}")
        for index, message in enumerate(grader.input)
    ]
    params = grader.sampling_params or schema.SamplingParams()
    sampling_params = msgspec.to_builtins(params)
    reply_schema = response_schema(result)

    def request(item: Item, sample: Sample) -> JudgeCall:
        return JudgeCall(
            model=grader.model,
            messages=[render(item, sample) for render in messages],
            sampling_params=sampling_params,
            schema_name=schema_name,
            schema=reply_schema,
        )

    return request


def result_of(reply: JudgeReply) -> JsonValue:
    """Return the ``result`` of a judge's reply.

    Raises:
        ModelGraderRefusalError: The judge, or its content filter, refused.
        ModelGraderTokenLimitError: The reply was cut off at the token limit.
        ModelGraderParseError: The reply is no JSON object with ``result``. Missing ``steps`` are
            forgiven: they change no reward, and judges without strict schemas drop them.
    """
    if reply.refusal:
        raise ModelGraderRefusalError(f"the judge refused: {shortened(reply.refusal)!r}")
    if reply.finish_reason == "content_filter":
        raise ModelGraderRefusalError("the judge's content filter stopped the reply")
    if reply.finish_reason == "length":
        raise ModelGraderTokenLimitError("the judge reached its token limit before it finished")
    parsed = parse_json_text(reply.content or "")
    if not isinstance(parsed, dict):
        raise ModelGraderParseError(
            f"the judge's reply is no JSON object: {shortened(reply.content or '')!r}"
        )
    if "result" not in parsed:
        raise ModelGraderParseError("the judge's reply has no 'result'")
    return parsed["result"]


def _message(message: schema.Message, builder: Builder, pointer: str) -> _Part:
    role = message.role
    content = message.content
    if isinstance(content, str):
        render = builder.template(content, f"{pointer}/content").render
        return lambda item, sample: {"role": role, "content": render(item, sample)}
    if isinstance(content, tuple):
        parts = enumerate(content)
        renders = [_content(part, builder, f"{pointer}/content/{index}") for index, part in parts]
    else:
        renders = [_content(content, builder, f"{pointer}/content")]
    return lambda item, sample: {
        "role": role,
        "content": [render(item, sample) for render in renders],
    }


def _content(part: str | schema.ContentObject, builder: Builder, pointer: str) -> _Part:
    """Return what renders one content part into Chat Completions shape."""
    if isinstance(part, schema.InputImage):
        url = builder.template(part.image_url, f"{pointer}/image_url").render
        extra = {} if part.detail is None else {"detail": part.detail}
        return lambda item, sample: {
            "type": "image_url",
            "image_url": {"url": url(item, sample), **extra},
        }
    if isinstance(part, schema.InputAudio):
        audio = part.input_audio
        data = builder.template(audio.data, f"{pointer}/input_audio/data").render
        return lambda item, sample: {
            "type": "input_audio",
            "input_audio": {"data": data(item, sample), "format": audio.format},
        }
    source, place = (part, pointer) if isinstance(part, str) else (part.text, f"{pointer}/text")
    text = builder.template(source, place).render
    return lambda item, sample: {"type": "text", "text": text(item, sample)}
