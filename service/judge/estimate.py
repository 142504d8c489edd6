"""What judge calls will take before they are made: tokens and dollars.

Token counts are estimates, made without any model's tokenizer: about four ASCII characters or one
other character a token, a few tokens a message, a fixed price for an image. They are meant to be
within a quarter for English prose and to lean towards too many.
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil
from typing import Any, Final

import msgspec

from graders.errors import EmbedderUnavailableError, JudgeUnavailableError
from graders.grade import TokenUsage
from graders.ports import EmbeddingCall, EmbeddingReply, JudgeCall, JudgeReply
from service.judge.chat import chat_body, embeddings_body
from service.judge.context import current_context
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
    """A `Judge` and `Embedder` that hands on what it is asked and answers nothing.

    Grading a data set with it yields the calls that `Prediction` wants, on the terms of
    `current_context`; every grade fails and is thrown away.

    Args:
        note: Gets every call, in the order asked.
    """

    def __init__(self, note: Callable[[JudgeCall | EmbeddingCall], None]) -> None:
        """Hand calls to ``note``."""
        self._note = note

    async def judge(self, call: JudgeCall) -> JudgeReply:
        """Note ``call``.

        Raises:
            JudgeUnavailableError: Always.
        """
        context = current_context()
        asked = msgspec.structs.replace(
            call,
            model=context.model or call.model,
            sample_index=context.sample_index + call.sample_index,
        )
        self._note(asked)
        raise JudgeUnavailableError("only estimating", retryable=False, kind="estimating")

    async def embed(self, call: EmbeddingCall) -> EmbeddingReply:
        """Note ``call``.

        Raises:
            EmbedderUnavailableError: Always.
        """
        self._note(call)
        raise EmbedderUnavailableError("only estimating", retryable=False, kind="estimating")


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


class Prediction:
    """What calls will take, added up as they come; holds a digest a distinct call, no prompts.

    Args:
        routes: Where the models lead, and at what price.
    """

    def __init__(self, routes: Routes) -> None:
        """Start at nothing."""
        self._routes = routes
        self._models: dict[str, ModelEstimate] = {}
        self._nano: dict[str, int] = {}
        self._seen: set[bytes] = set()

    @property
    def models(self) -> list[ModelEstimate]:
        """The estimates by judge model, in the order the models first appeared."""
        return list(self._models.values())

    def add(self, call: JudgeCall | EmbeddingCall) -> None:
        """Add one call; texts to embed are asked, and counted, one by one."""
        target = self._routes.target(call.model)
        upstream = None if target is None else target.model
        entry = self._models.setdefault(
            call.model, ModelEstimate(model=call.model, upstream_model=upstream)
        )
        if isinstance(call, JudgeCall):
            entry.calls += 1
            if target is not None:
                build = responses_body if target.route.api == "responses" else chat_body
                body = build(call, target.route, target.model)
                key = digest(target.route, body, (0, call.sample_index))
                self._pay(entry, target.route, key, expected_usage(call, target.route))
            return
        for text in call.texts:
            entry.calls += 1
            if target is not None:
                one = msgspec.structs.replace(call, texts=(text,))
                key = digest(target.route, embeddings_body(one, target.model), (0, 0))
                tokens = text_tokens(text)
                usage = TokenUsage(prompt_tokens=tokens, total_tokens=tokens)
                self._pay(entry, target.route, key, usage)

    def _pay(self, entry: ModelEstimate, route: Route, key: str, usage: TokenUsage) -> None:
        """Add the tokens and dollars of a call that differs from all before."""
        seen = bytes.fromhex(key)
        if seen in self._seen:
            return
        self._seen.add(seen)
        entry.distinct += 1
        entry.prompt_tokens += usage.prompt_tokens
        entry.completion_tokens += usage.completion_tokens
        if route.price is not None:
            nano = self._nano.get(entry.model, 0) + route.price.nanodollars(usage)
            self._nano[entry.model] = nano
            entry.dollars = nano / NANO


def _part_tokens(part: dict[str, Any]) -> int:
    match part.get("type"):
        case "image_url":
            return _IMAGE_TOKENS
        case "input_audio":
            return ceil(len(part["input_audio"]["data"]) / _AUDIO_BYTES_PER_TOKEN)
        case _:
            return text_tokens(str(part.get("text", "")))
