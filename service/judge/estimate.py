"""What judge calls will take before they are made: tokens and dollars.

Token counts are estimates, made without any model's tokenizer: about four ASCII characters or one
other character a token, a few tokens a message, a fixed price for an image. They are meant to be
within a quarter for English prose and to lean towards too many.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import ceil
from typing import Any, Final

import msgspec

from graders.errors import JudgeUnavailableError
from graders.grade import TokenUsage
from graders.ports import JudgeCall, JudgeReply
from service.judge.chat import chat_body
from service.judge.key import digest
from service.judge.responses import responses_body
from service.judge.routes import Route, Routes
from service.stores import NANO

_CHARS_PER_TOKEN: Final = 4
_MESSAGE_TOKENS: Final = 4
_IMAGE_TOKENS: Final = 1_100
_AUDIO_BYTES_PER_TOKEN: Final = 1_600
_ENCODER: Final = msgspec.json.Encoder()


class ModelEstimate(msgspec.Struct, kw_only=True):
    """What one judge model will take.

    Attributes:
        model: Judge model as the definition names it.
        upstream_model: Model that will be asked; None when no route answers for ``model``.
        calls: Questions.
        distinct: Questions that differ, so have to be paid for.
        prompt_tokens: Of the distinct ones.
        completion_tokens: Of the distinct ones; the limit where one is stated and lower than the
            route's assumption, else that assumption.
        dollars: None when the route has no price.
    """

    model: str
    upstream_model: str | None
    calls: int = 0
    distinct: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    dollars: float | None = None


class CallCollector:
    """A `Judge` that notes what it is asked and answers nothing.

    Grading a data set with it yields the calls that `predict` wants; every grade fails as
    ``judge_unavailable`` and is thrown away.

    Attributes:
        calls: Every call, in the order asked.
    """

    def __init__(self) -> None:
        """Start without a call."""
        self.calls: list[JudgeCall] = []

    async def judge(self, call: JudgeCall) -> JudgeReply:
        """Note ``call``.

        Raises:
            JudgeUnavailableError: Always.
        """
        self.calls.append(call)
        raise JudgeUnavailableError("only estimating", retryable=False, kind="estimating")


def text_tokens(text: str) -> int:
    """Return roughly how many tokens ``text`` is."""
    wide = 0 if text.isascii() else sum(not char.isascii() for char in text)
    return ceil((len(text) - wide) / _CHARS_PER_TOKEN) + wide


def prompt_tokens(call: JudgeCall) -> int:
    """Return roughly how many tokens the question is, response schema included."""
    total = ceil(len(_ENCODER.encode(call.schema)) / _CHARS_PER_TOKEN)
    for message in call.messages:
        content = message["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        total += _MESSAGE_TOKENS + sum(map(_part_tokens, parts))
    return total


def completion_tokens(call: JudgeCall, route: Route) -> int:
    """Return how many tokens to expect in the answer."""
    limit = call.sampling_params.get("max_completions_tokens")
    assumed = route.assumed_completion_tokens
    return min(limit, assumed) if isinstance(limit, int) else assumed


def expected_usage(call: JudgeCall, route: Route) -> TokenUsage:
    """Return the tokens to expect from one call."""
    prompt, completion = prompt_tokens(call), completion_tokens(call, route)
    return TokenUsage(
        prompt_tokens=prompt, completion_tokens=completion, total_tokens=prompt + completion
    )


def predict(calls: Iterable[JudgeCall], routes: Routes) -> list[ModelEstimate]:
    """Return what ``calls`` will take by judge model, in the order the models first appear."""
    found: dict[str, ModelEstimate] = {}
    seen: set[str] = set()
    nano: dict[str, int] = {}
    for call in calls:
        target = routes.target(call.model)
        entry = found.setdefault(
            call.model,
            ModelEstimate(model=call.model, upstream_model=target.model if target else None),
        )
        entry.calls += 1
        if target is None:
            continue
        build = responses_body if target.route.api == "responses" else chat_body
        question = build(call, target.route, target.model)
        key = digest(target.route, question, (0, call.sample_index))
        if key in seen:
            continue
        seen.add(key)
        usage = expected_usage(call, target.route)
        entry.distinct += 1
        entry.prompt_tokens += usage.prompt_tokens
        entry.completion_tokens += usage.completion_tokens
        if target.route.price is not None:
            nano[call.model] = nano.get(call.model, 0) + target.route.price.nanodollars(usage)
            entry.dollars = nano[call.model] / NANO
    return list(found.values())


def _part_tokens(part: dict[str, Any]) -> int:
    match part.get("type"):
        case "image_url":
            return _IMAGE_TOKENS
        case "input_audio":
            return ceil(len(part["input_audio"]["data"]) / _AUDIO_BYTES_PER_TOKEN)
        case _:
            return text_tokens(str(part.get("text", "")))
