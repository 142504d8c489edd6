"""A question made ready to be sent: digest, bytes to be, and how to read what comes back. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from graders.errors import EmbedderUnavailableError, JudgeUnavailableError, UpstreamError
from graders.grade import TokenUsage
from graders.ports import EmbeddingCall, JudgeCall
from service.judge.chat import chat_answer, chat_body, dropped, embeddings_body, vectors
from service.judge.context import JudgeContext
from service.judge.estimate import expected_usage, text_tokens
from service.judge.key import digest
from service.judge.outcome import Answer, JsonObject, Vectors
from service.judge.responses import responses_answer, responses_body
from service.judge.routes import Route, Target

_ENCODER: Final = msgspec.json.Encoder()


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """One question to one upstream.

    Attributes:
        key: Digest of everything that determines the reply.
        target: Where it goes.
        path: Where there.
        body: What is sent.
        read: Makes an outcome of the bytes that come back; raises `EnvelopeError`.
        expected: Tokens it will probably take; zero where nothing depends on them.
        left_out: Stated parameters that the route cannot be sent.
    """

    key: str
    target: Target
    path: str
    body: JsonObject
    read: Callable[[bytes], Answer | Vectors]
    expected: TokenUsage = TokenUsage()
    left_out: tuple[str, ...] = ()

    @property
    def content(self) -> bytes:
        """What is sent, as JSON in the order it was built."""
        return _ENCODER.encode(self.body)


def judge_question(call: JudgeCall, target: Target, context: JudgeContext) -> Question:
    """Return ``call`` as ``target`` wants it.

    Raises:
        JudgeUnavailableError: It holds something that JSON cannot carry.
    """
    route = target.route
    asks_responses = route.api == "responses"
    body = (responses_body if asks_responses else chat_body)(call, route, target.model)
    answer = responses_answer if asks_responses else chat_answer
    draw = context.sample_index, call.sample_index
    return Question(
        key=_key(route, body, draw, JudgeUnavailableError),
        target=target,
        path="/responses" if asks_responses else "/chat/completions",
        body=body,
        read=lambda raw: answer(raw, call, route, target.model),
        expected=expected_usage(call, route) if _counts(route) else TokenUsage(),
        left_out=dropped(call, route),
    )


def embedding_question(call: EmbeddingCall, target: Target) -> Question:
    """Return ``call`` as ``target`` wants it.

    Raises:
        EmbedderUnavailableError: It holds text that JSON cannot carry.
    """
    body = embeddings_body(call, target.model)
    tokens = sum(map(text_tokens, call.texts)) if _counts(target.route) else 0
    return Question(
        key=_key(target.route, body, (0, 0), EmbedderUnavailableError),
        target=target,
        path="/embeddings",
        body=body,
        read=lambda raw: vectors(raw, call, target.model),
        expected=TokenUsage(prompt_tokens=tokens, total_tokens=tokens),
    )


def _key(
    route: Route, body: JsonObject, draw: tuple[int, int], unavailable: type[UpstreamError]
) -> str:
    try:
        return digest(route, body, draw)
    except (UnicodeError, TypeError, ValueError) as error:
        raise unavailable(
            "the question holds text or numbers that JSON cannot carry",
            retryable=False,
            kind="unsendable",
        ) from error


def _counts(route: Route) -> bool:
    """Return whether anything on ``route`` depends on how many tokens to expect."""
    return route.price is not None or route.tokens_per_minute is not None
