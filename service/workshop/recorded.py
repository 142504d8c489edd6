"""Ports that answer from recordings, so that grading an example needs no network.

A recorded reply answers exactly the question that its part asks about the sample: the question is
built by the compiled grader, and any other question gets no reply.
"""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import msgspec

from graders.asking import Call
from graders.engine import CompiledGrader
from graders.errors import (
    EmbedderUnavailableError,
    EndpointUnavailableError,
    JudgeUnavailableError,
    UpstreamError,
)
from graders.ports import (
    EmbeddingCall,
    EmbeddingReply,
    EndpointCall,
    EndpointReply,
    Judge,
    JudgeCall,
    JudgeReply,
    Ports,
)
from graders.sample import Sample
from service.workshop.examples import ExamplesError, Recorded

NOT_RECORDED = "not_recorded"  # kind of the failure where a recording lacks a reply

ReplyT = TypeVar("ReplyT")


class _Replies(Generic[ReplyT]):
    """Replies by question."""

    def __init__(self, error: type[UpstreamError]) -> None:
        self._error = error
        self._replies: dict[bytes, ReplyT] = {}

    def add(self, part: str, call: Call, reply: ReplyT) -> None:
        key = msgspec.json.encode(call)
        if self._replies.setdefault(key, reply) != reply:
            problem = f"'{part}' asks what another part asks, and their recorded replies differ"
            raise ExamplesError([problem])

    def find(self, call: Call) -> ReplyT:
        reply = self._replies.get(msgspec.json.encode(call))
        if reply is None:
            message = "no reply to this question is recorded"
            raise self._error(message, retryable=False, kind=NOT_RECORDED)
        return reply


class _Answers:
    """The judge, embedder and endpoint of one sample."""

    def __init__(self) -> None:
        self.judgements = _Replies[JudgeReply](JudgeUnavailableError)
        self.embeddings = _Replies[EmbeddingReply](EmbedderUnavailableError)
        self.endpoints = _Replies[EndpointReply](EndpointUnavailableError)

    async def judge(self, call: JudgeCall) -> JudgeReply:
        return self.judgements.find(call)

    async def embed(self, call: EmbeddingCall) -> EmbeddingReply:
        return self.embeddings.find(call)

    async def call(self, call: EndpointCall) -> EndpointReply:
        return self.endpoints.find(call)


def recorded_ports(
    grader: CompiledGrader, item: dict[str, Any], sample: Sample, recorded: Recorded, ports: Ports
) -> Ports:
    """Return ``ports`` with everything but the sandbox answering from ``recorded``.

    Raises:
        ExamplesError: Two parts ask the same and have different replies.
    """
    answers = _Answers()
    for part, call in grader.requests(item, sample).items():
        if isinstance(call, JudgeCall) and part in recorded.judge:
            answers.judgements.add(part, call, judge_reply(call, recorded.judge[part]))
        elif isinstance(call, EmbeddingCall) and part in recorded.embedding:
            vectors = EmbeddingReply(vectors=recorded.embedding[part], model=call.model)
            answers.embeddings.add(part, call, vectors)
        elif isinstance(call, EndpointCall) and part in recorded.endpoint:
            body = msgspec.json.encode(recorded.endpoint[part])
            answers.endpoints.add(part, call, EndpointReply(body=body))
    return Ports(judge=answers, embedder=answers, endpoint=answers, sandbox=ports.sandbox)


def judge_reply(call: JudgeCall, recorded: dict[str, Any]) -> JudgeReply:
    """Return the reply that a recorded one stands for."""
    fields = {key: value for key, value in recorded.items() if key != "finish_reason"}
    content = fields.get("content")
    if not {"content", "refusal"} & fields.keys():
        content = msgspec.json.encode({"steps": [], **fields}).decode()
    return JudgeReply(
        content=content,
        refusal=fields.get("refusal"),
        finish_reason=recorded.get("finish_reason", "stop"),
        model=call.model,
        key="recorded",
    )


class JudgeRecorder:
    """Passes questions on to a judge and remembers its replies."""

    def __init__(self, judge: Judge | None) -> None:
        """Ask ``judge``; without one, every question fails."""
        self._judge = judge
        self._replies: dict[bytes, JudgeReply] = {}

    async def judge(self, call: JudgeCall) -> JudgeReply:
        """Return the reply of the judge.

        Raises:
            JudgeUnavailableError: There is no reply.
        """
        if self._judge is None:
            raise JudgeUnavailableError("no judge is available here", retryable=False)
        reply = await self._judge.judge(call)
        self._replies[msgspec.json.encode(call)] = reply
        return reply

    def recorded(self, requests: dict[str, Call]) -> Recorded:
        """Return the replies to the questions of parts, as a recording holds them."""
        replies = {
            part: _as_recorded(reply)
            for part, call in requests.items()
            if (reply := self._replies.get(msgspec.json.encode(call))) is not None
        }
        return Recorded(judge=replies)


def _as_recorded(reply: JudgeReply) -> dict[str, Any]:
    finish = {} if reply.finish_reason == "stop" else {"finish_reason": reply.finish_reason}
    if reply.refusal is not None:
        return {"refusal": reply.refusal, **finish}
    return {"content": reply.content or "", **finish}
