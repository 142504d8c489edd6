"""What the engine needs from outside: four protocols and the values that cross them.

A fifth, `Watch`, lets somebody outside see what the engine does.

A grader module builds the question (a pure ``request``), the engine awaits the port, and the module
reads the reply (a pure ``score``). Whoever implements a port decides about transport, caching,
retries and limits; the meaning of a reply is decided here, in `graders`.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, Literal, Protocol

import msgspec

from graders.grade import Grade, TokenUsage


class JudgeCall(msgspec.Struct, frozen=True, kw_only=True):
    """One question to a judge model, complete: equal calls may share one reply.

    Attributes:
        model: Judge model as the definition names it; the adapter maps it to a route.
        messages: Rendered messages in Chat Completions shape: ``{"role": …, "content": …}`` with
            content a text or a list of parts ``{"type": "text"|"image_url"|"input_audio", …}``.
        sampling_params: Only what the definition states, in OpenAI's spelling (``seed``,
            ``temperature``, ``top_p``, ``max_completions_tokens``, ``reasoning_effort``).
        schema_name: Name of the response format.
        schema: JSON schema (strict) that the reply must satisfy.
        sample_index: 0, or the number of a deliberately independent draw.
    """

    model: str
    messages: list[dict[str, Any]]
    sampling_params: dict[str, Any]
    schema_name: str
    schema: dict[str, Any]
    sample_index: int = 0


class JudgeReply(msgspec.Struct, frozen=True, kw_only=True):
    """What the judge model answered.

    Attributes:
        content: Text of the answer; None when there is none.
        refusal: The judge's refusal, if it refused.
        finish_reason: As Chat Completions spells it: ``stop``, ``length``, ``content_filter`` …
        model: The model that really answered.
        usage: Tokens spent; zero on a cache hit only in the bill, not here.
        key: Digest of the question: everything that goes to the judge (the cache key).
        digest: Digest of what the reply says, since a judge asked anew may say something else;
            empty where nobody made one.
        cached: Whether the reply was paid for earlier.
        diagnostics: Anything worth showing to who debugs a grader.
    """

    content: str | None
    refusal: str | None = None
    finish_reason: str = "stop"
    model: str
    usage: TokenUsage = TokenUsage()
    key: str = ""
    digest: str = ""
    cached: bool = False
    diagnostics: dict[str, Any] = {}


class Judge(Protocol):
    """Asks judge models."""

    async def judge(self, call: JudgeCall) -> JudgeReply:
        """Return the reply to ``call``.

        Raises:
            JudgeUnavailableError: No reply after the adapter's own retries and limits.
        """
        ...


class SandboxRun(msgspec.Struct, frozen=True, kw_only=True):
    """One call of a Python grader.

    Attributes:
        source: The grader's source, at most 256 kB.
        image_tag: Which grader image runs it.
        payload: JSON text ``{"sample": …, "item": …}`` in UTF-8.
    """

    source: str
    image_tag: str
    payload: bytes


SandboxOutcome = Literal[
    "value", "bad_value", "exception", "timeout", "memory", "output", "no_result"
]


class SandboxResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a Python grader did.

    Attributes:
        outcome: ``value``: ``grade`` returned a number, which may still be NaN or infinite.
            ``bad_value``: it returned something else. ``exception``: it raised, at import or in the
            call, does not compile, or has no callable ``grade``. ``timeout``, ``memory``,
            ``output``: a limit. ``no_result``: the process ended without an answer.
        value: The returned number, exactly; only with ``value``.
        details: One sentence, or the end of the traceback in the grader's own lines.
        stdout: Captured output, bounded.
        stderr: Captured output, bounded.
        execution_time_s: Seconds of wall time in the sandbox, queueing excluded.
        diagnostics: Isolation level and the like.
    """

    outcome: SandboxOutcome
    value: float | None = None
    details: str = ""
    stdout: str = ""
    stderr: str = ""
    execution_time_s: float = 0.0
    diagnostics: dict[str, Any] = {}


class Sandbox(Protocol):
    """Runs Python graders in isolation."""

    async def run(self, run: SandboxRun) -> SandboxResult:
        """Return what the grader did with this payload.

        Raises:
            SandboxUnavailableError: User code was not run to an end, for a reason of the
                sandbox's own.
            OverloadedError: The bounded queue is full.
        """
        ...


class EmbeddingCall(msgspec.Struct, frozen=True, kw_only=True):
    """Texts to embed with one model."""

    model: str
    texts: tuple[str, ...]


class EmbeddingReply(msgspec.Struct, frozen=True, kw_only=True):
    """One vector a text, in the order of the call; the rest as in `JudgeReply`."""

    vectors: tuple[tuple[float, ...], ...]
    model: str
    usage: TokenUsage = TokenUsage()
    key: str = ""
    digest: str = ""
    cached: bool = False
    diagnostics: dict[str, Any] = {}


class Embedder(Protocol):
    """Embeds texts for ``cosine``."""

    async def embed(self, call: EmbeddingCall) -> EmbeddingReply:
        """Return the vectors.

        Raises:
            EmbedderUnavailableError: No reply after the adapter's own retries and limits.
        """
        ...


class EndpointCall(msgspec.Struct, frozen=True, kw_only=True):
    """One call of an ``endpoint`` grader.

    Attributes:
        url: Absolute http or https URL.
        headers: Sent as they are; secret.
        body: JSON object ``{"sample": …, "item": …}``; the adapter adds ``trace_id``.
        rate_limit: Calls per second the definition allows; None for no limit.
    """

    url: str
    headers: dict[str, str]
    body: dict[str, Any]
    rate_limit: float | None = None


class EndpointReply(msgspec.Struct, frozen=True, kw_only=True):
    """The body of a 2xx answer."""

    body: bytes


class EndpointCaller(Protocol):
    """Calls endpoint graders."""

    async def call(self, call: EndpointCall) -> EndpointReply:
        """Return the answer.

        Raises:
            EndpointUnavailableError: No 2xx answer after the adapter's own retries and limits.
            InputTooLongError: The request is larger than the adapter sends.
            OverloadedError: Too many calls wait for the endpoint's rate limit.
        """
        ...


class Watch(Protocol):
    """Sees grades in the making that ask something outside, and changes nothing about them.

    The engine has no clock; who wants to know how long things take, or how many are under way,
    looks from here. Neither method may raise for a reason of its own.
    """

    async def whole(self, kind: str, grading: Awaitable[Grade]) -> Grade:
        """Return what ``grading`` gives: one sample, by a definition of the type ``kind``."""
        ...

    async def part(self, kind: str, key: str, grading: Awaitable[Grade]) -> Grade:
        """Return what ``grading`` gives: one part, of the type ``kind``.

        Args:
            kind: ``type`` of the part.
            key: Its key in ``multi.graders``; empty for a grader on its own.
            grading: What is awaited, exactly once.
        """
        ...


class Ports(msgspec.Struct, frozen=True, kw_only=True):
    """The adapters a process has; None where a kind of grader is not available here."""

    judge: Judge | None = None
    sandbox: Sandbox | None = None
    embedder: Embedder | None = None
    endpoint: EndpointCaller | None = None
    watch: Watch | None = None
