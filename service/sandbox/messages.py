"""What passes between the service and a separate runner: one question, one answer, in msgpack.

An answer is preceded by any number of null bytes, one for every second that it takes: whoever hears
none for a while knows that the runner is gone. msgpack, because a score may be NaN or infinite and
payloads are bytes.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from graders.errors import (
    DefinitionError,
    Finding,
    GraderError,
    InputTooLongError,
    OverloadedError,
    SandboxOverloadedError,
    SandboxUnavailableError,
    UpstreamError,
)
from graders.ports import SandboxResult
from service.sandbox.config import Level, Seeds

RUN_PATH = "/v1/run"
READY_PATH = "/readyz"
MEDIA_TYPE = "application/vnd.msgpack"
HEARTBEAT = b"\0"  # msgpack's number 0: no answer begins with it
HEARTBEAT_S = 1.0

Cause = Literal["definition", "overloaded", "unavailable", "too_large", "unauthorized", "malformed"]

STATUSES: dict[Cause, int] = {
    "definition": 422,
    "overloaded": 429,
    "unavailable": 503,
    "too_large": 413,
    "unauthorized": 401,
    "malformed": 400,
}


class RunQuestion(msgspec.Struct, frozen=True, kw_only=True):
    """One call of a Python grader.

    Attributes:
        source: As in `SandboxRun`.
        image_tag: As in `SandboxRun`.
        payload: As in `SandboxRun`.
        timeout_s: Wall time that the service allows; the runner's own limit counts if shorter.
        seeds: ``fixed`` asks for fixed seeds where the runner would take fresh ones.
        minimum_level: Weakest isolation that the service accepts.
    """

    source: str
    image_tag: str
    payload: bytes
    timeout_s: Annotated[float, Meta(gt=0)]
    seeds: Seeds = "fresh"
    minimum_level: Level


class Done(msgspec.Struct, frozen=True, kw_only=True, tag="done"):
    """What the grader did."""

    result: SandboxResult


class Refused(msgspec.Struct, frozen=True, kw_only=True, tag="refused"):
    """Why there is no result; the rest as in `graders.errors.UpstreamError`.

    Attributes:
        cause: Which error it becomes.
        findings: What is wrong with the definition, with that cause.
    """

    cause: Cause
    details: str
    retryable: bool = True
    retry_after_s: float | None = None
    kind: str | None = None
    findings: tuple[Finding, ...] = ()


Answer = Done | Refused


def refusal(error: GraderError) -> Refused:
    """Return ``error`` as an answer."""
    match error:
        case DefinitionError():
            return Refused(cause="definition", details=str(error), findings=error.findings)
        case UpstreamError():
            return Refused(
                cause="overloaded" if isinstance(error, OverloadedError) else "unavailable",
                details=error.details,
                retryable=error.retryable,
                retry_after_s=error.retry_after_s,
                kind=error.kind,
            )
        case _:
            return Refused(cause="unavailable", details=str(error), kind="runner_error")


def error_of(refused: Refused) -> GraderError:
    """Return what ``refused`` says, as a sandbox in this process would have raised it."""
    match refused.cause:
        case "definition":
            return DefinitionError(refused.findings)
        case "too_large":
            return InputTooLongError(refused.details)
        case _:
            overloaded = refused.cause == "overloaded"
            failure = SandboxOverloadedError if overloaded else SandboxUnavailableError
            return failure(
                refused.details,
                retryable=refused.retryable,
                retry_after_s=refused.retry_after_s,
                kind=refused.kind or refused.cause,
            )
