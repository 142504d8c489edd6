"""Grading by asking something outside: request, the one await, score.

Each function takes a grader module's ``request`` and ``score`` and returns what the engine awaits.
Usage and diagnostics are kept even when the reply turns out not to be a score.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias, TypeVar

from graders.building import Item
from graders.errors import (
    EmbedderUnavailableError,
    EndpointUnavailableError,
    GradingError,
    JudgeUnavailableError,
    SandboxUnavailableError,
)
from graders.grade import Failure, Grade
from graders.ports import (
    EmbeddingCall,
    EmbeddingReply,
    EndpointCall,
    EndpointReply,
    JudgeCall,
    JudgeReply,
    Ports,
    SandboxResult,
    SandboxRun,
)
from graders.sample import Sample

Call: TypeAlias = JudgeCall | SandboxRun | EmbeddingCall | EndpointCall
Ask: TypeAlias = Callable[[Item, Sample, Ports], Awaitable[Grade]]
CallT = TypeVar("CallT")
ReplyT = TypeVar("ReplyT")
Request: TypeAlias = Callable[[Item, Sample], CallT]
ScoreReply: TypeAlias = Callable[[ReplyT], float]

NOT_AVAILABLE = "not_available"  # kind of the failure where a process lacks a port; never retryable


def judge(request: Request[JudgeCall], score: ScoreReply[JudgeReply]) -> Ask:
    """Return what grades by asking a judge model."""

    async def ask(item: Item, sample: Sample, ports: Ports) -> Grade:
        call = request(item, sample)
        if ports.judge is None:
            message = "judge models are not available here"
            raise JudgeUnavailableError(message, retryable=False, kind=NOT_AVAILABLE)
        reply = await ports.judge.judge(call)
        reward, failures = _scored(score, reply)
        return Grade(
            reward=reward,
            failures=failures,
            usage={reply.model: reply.usage},
            sampled_model_name=reply.model,
            judgements=(_judgement("judge", reply),),
            diagnostics={"": {**reply.diagnostics, "cached": reply.cached}},
        )

    return ask


def sandbox(request: Request[SandboxRun], score: ScoreReply[SandboxResult]) -> Ask:
    """Return what grades by running user code in the sandbox."""

    async def ask(item: Item, sample: Sample, ports: Ports) -> Grade:
        run = request(item, sample)
        if ports.sandbox is None:
            message = "running Python graders is not available here"
            raise SandboxUnavailableError(message, retryable=False, kind=NOT_AVAILABLE)
        result = await ports.sandbox.run(run)
        reward, failures = _scored(score, result)
        diagnostics: dict[str, Any] = {
            **result.diagnostics,
            "stdout": result.stdout,
            "stderr": result.stderr,
            "execution_time": result.execution_time_s,
        }
        return Grade(reward=reward, failures=failures, diagnostics={"": diagnostics})

    return ask


def embedder(request: Request[EmbeddingCall], score: ScoreReply[EmbeddingReply]) -> Ask:
    """Return what grades by comparing two embeddings."""

    async def ask(item: Item, sample: Sample, ports: Ports) -> Grade:
        call = request(item, sample)
        if ports.embedder is None:
            message = "embeddings are not available here"
            raise EmbedderUnavailableError(message, retryable=False, kind=NOT_AVAILABLE)
        reply = await ports.embedder.embed(call)
        return Grade(
            reward=score(reply),
            usage={reply.model: reply.usage},
            judgements=(_judgement("embedding", reply),),
            diagnostics={"": {**reply.diagnostics, "cached": reply.cached}},
        )

    return ask


def endpoint(request: Request[EndpointCall], score: ScoreReply[EndpointReply]) -> Ask:
    """Return what grades by calling an HTTP endpoint."""

    async def ask(item: Item, sample: Sample, ports: Ports) -> Grade:
        call = request(item, sample)
        if ports.endpoint is None:
            message = "calling endpoint graders is not available here"
            raise EndpointUnavailableError(message, retryable=False, kind=NOT_AVAILABLE)
        return Grade(reward=score(await ports.endpoint.call(call)))

    return ask


def _judgement(kind: str, reply: JudgeReply | EmbeddingReply) -> str:
    """Return what a signature says of ``reply``: who answered, what was asked, what was said."""
    entry = f"{kind}:{reply.model}:{reply.key}"
    return f"{entry}:{reply.digest}" if reply.digest else entry


def _scored(score: ScoreReply[ReplyT], reply: ReplyT) -> tuple[float, tuple[Failure, ...]]:
    try:
        return score(reply), ()
    except GradingError as error:
        return 0.0, (Failure.of(error),)
