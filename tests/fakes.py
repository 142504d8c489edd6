"""Ports that answer from a script and remember what they were asked.

A script is a function of the call that gives the reply, an exception to raise, or an awaitable of
the reply, which may sleep or wait for the test.
"""

from __future__ import annotations

import inspect
import json
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Generic, TypeAlias, TypeVar

from graders.errors import JudgeUnavailableError
from graders.grade import TokenUsage
from graders.ports import (
    EmbeddingCall,
    EmbeddingReply,
    EndpointCall,
    EndpointReply,
    JudgeCall,
    JudgeReply,
    SandboxResult,
    SandboxRun,
)

CallT = TypeVar("CallT")
ReplyT = TypeVar("ReplyT")
Answer: TypeAlias = ReplyT | Exception | Awaitable[ReplyT]

MODEL = "judge-2026-01-01"
USAGE = TokenUsage(prompt_tokens=100, completion_tokens=20, total_tokens=120, cached_tokens=5)
_REMEMBERED = 10


class Scripted(Generic[CallT, ReplyT]):
    """Answers calls from a script.

    Attributes:
        script: Gives the answer to a call.
        calls: The last ten.
        asked: Number of calls so far.
        under_way: Calls that wait for their answer.
        most_under_way: Largest number of calls that waited at once.
        cancelled: Calls whose caller gave up.
    """

    def __init__(self, answer: Callable[[CallT], Answer[ReplyT]]) -> None:
        self.script = answer
        self.calls: deque[CallT] = deque(maxlen=_REMEMBERED)
        self.asked = 0
        self.under_way = 0
        self.most_under_way = 0
        self.cancelled = 0

    async def answer(self, call: CallT) -> ReplyT:
        self.calls.append(call)
        self.asked += 1
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        finished = False
        try:
            reply: Any = self.script(call)
            if inspect.isawaitable(reply):
                reply = await reply
            finished = True
        except Exception:
            finished = True
            raise
        finally:
            self.under_way -= 1
            self.cancelled += not finished
        if isinstance(reply, Exception):
            raise reply
        answered: ReplyT = reply
        return answered


class FakeJudge(Scripted[JudgeCall, JudgeReply]):
    """A judge model."""

    async def judge(self, call: JudgeCall) -> JudgeReply:
        return await self.answer(call)


class FakeSandbox(Scripted[SandboxRun, SandboxResult]):
    """A sandbox."""

    async def run(self, run: SandboxRun) -> SandboxResult:
        return await self.answer(run)


class FakeEmbedder(Scripted[EmbeddingCall, EmbeddingReply]):
    """An embeddings endpoint."""

    async def embed(self, call: EmbeddingCall) -> EmbeddingReply:
        return await self.answer(call)


class FakeEndpoint(Scripted[EndpointCall, EndpointReply]):
    """An HTTP endpoint that grades."""

    async def call(self, call: EndpointCall) -> EndpointReply:
        return await self.answer(call)


def verdict(result: float | str) -> JudgeReply:
    """Return a judge's well-formed reply with this ``result``."""
    shown = f'"{result}"' if isinstance(result, str) else result
    return reply(content=f'{{"steps": [], "result": {shown}}}')


def reply(content: str | None, **fields: Any) -> JudgeReply:
    """Return a judge's reply with this text."""
    return JudgeReply(content=content, model=MODEL, usage=USAGE, key="reply-key", **fields)


def recorded(script: Mapping[str, Any]) -> JudgeReply | JudgeUnavailableError:
    """Return what the ``judge_reply`` of a conformance vector stands for."""
    if "http_status" in script:
        return JudgeUnavailableError(f"the judge answered {script['http_status']}")
    return reply(
        script.get("content"),
        refusal=script.get("refusal"),
        finish_reason=script.get("finish_reason", "stop"),
    )


def prompt(call: JudgeCall) -> str:
    """Return the text of the last message of a call."""
    return str(call.messages[-1]["content"])


def run_here(run: SandboxRun) -> SandboxResult:
    """Return what a Python grader gives when it runs in this process; only for our own vectors."""
    payload = json.loads(run.payload)
    names: dict[str, Any] = {}
    try:
        exec(compile(run.source, "grader.py", "exec"), names)  # noqa: S102 - see above
        value = names["grade"](payload["sample"], payload["item"])
    except Exception as error:  # noqa: BLE001 - whatever a grader raises
        return SandboxResult(outcome="exception", details=f"{type(error).__name__}: {error}")
    if isinstance(value, int | float):
        return SandboxResult(outcome="value", value=float(value))
    return SandboxResult(outcome="bad_value", details=f"grade returned {type(value).__name__}")
