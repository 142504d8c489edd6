"""Every exception as an HTTP answer: one table, two shapes.

Native routes answer ``application/problem+json`` (RFC 9457); OpenAI-compatible ones ``{"error":
{…}}``, which the official clients turn into their own exceptions. A traceback goes to the log,
never out.
"""

from __future__ import annotations

import logging
import re
from typing import Any

import msgspec
from litestar.connection import Request
from litestar.exceptions import HTTPException, NotFoundException
from litestar.response.base import ASGIResponse

from graders.errors import (
    BudgetExceededError,
    DefinitionError,
    Finding,
    GraderError,
    OverloadedError,
    RowError,
    UncarriedError,
    UnknownGraderError,
    UnknownVersionError,
    UpstreamError,
)
from graders.wording import dotted, escape
from service.judge import MissingRecordingError
from service.lean import ClientGoneError, LeanResponse
from service.wire import OpenAIError, OpenAIErrorResponse, Problem

logger = logging.getLogger(__name__)

_NO_ROUTE = "there is no such route; /schema describes those that there are"
_TYPE_BASE = "urn:gradekeeper:problem:"
_OPENAI_PREFIXES = ("/v1/fine_tuning/", "/openai/v1/")
_encode = msgspec.json.Encoder().encode


class NotAvailableError(GraderError):
    """This process has no port for this kind of grader; nothing to retry here."""


class ConflictError(GraderError):
    """What is asked for cannot be together with what is there."""


class UngradedError(GraderError):
    """The grader could not grade; raised where the caller has no other way to hear of it.

    Attributes:
        findings: One a row, with pointers to its place in the request.
    """

    def __init__(self, findings: list[Finding]) -> None:
        """Keep the findings."""
        self.findings = tuple(findings)
        super().__init__(f"{len(findings)} of the rows could not be graded")


class InvalidRowsError(GraderError):
    """Rows of a batch that no grader can read.

    Attributes:
        findings: One a row, with pointers into the request.
    """

    def __init__(self, findings: list[Finding]) -> None:
        """Keep the findings."""
        self.findings = tuple(findings)
        super().__init__(f"{len(findings)} of the rows cannot be read")


# exception → status, last part of the problem type, title; the first match decides
_TABLE: tuple[tuple[type[Exception], int, str, str], ...] = (
    (DefinitionError, 400, "invalid-definition", "The grader definition cannot be used"),
    (InvalidRowsError, 400, "invalid-rows", "Rows cannot be read"),
    (RowError, 400, "invalid-rows", "Rows cannot be read"),
    (UnknownGraderError, 404, "unknown-grader", "No such grader"),
    (UnknownVersionError, 404, "unknown-version", "No such version"),
    (ConflictError, 409, "conflict", "This cannot be published"),
    (UngradedError, 422, "ungraded", "The grader could not grade"),
    (UncarriedError, 422, "not-exportable", "The target cannot take this grader"),
    # Not 404 (the grader is there), not 5xx (clients would retry what cannot come to differ).
    (MissingRecordingError, 424, "missing-recording", "Nobody recorded this judgement"),
    (BudgetExceededError, 429, "budget-exceeded", "The budget is spent"),
    (OverloadedError, 429, "overloaded", "Too many calls are waiting"),
    (NotAvailableError, 501, "not-available", "Not available here"),
    (UpstreamError, 503, "upstream-unavailable", "Something outside could not be asked"),
)
_HTTP_TITLES = {
    400: ("bad-request", "The request cannot be read"),
    401: ("unauthenticated", "No valid key"),
    403: ("forbidden", "The key does not allow this"),
    404: ("not-found", "No such resource"),
    405: ("method-not-allowed", "This resource does not take this method"),
    413: ("too-large", "The request is too large"),
    414: ("path-too-long", "The path is too long"),
    415: ("unsupported-media-type", "This content type is not taken"),
    429: ("overloaded", "Too many calls are waiting"),
}
_FIELD = re.compile(r"Object (?P<fault>missing required|contains unknown) field `(?P<name>[^`]*)`")
_FIELD_FAULTS = {
    "missing required": ("missing_required_parameter", "Missing required parameter"),
    "contains unknown": ("unknown_parameter", "Unknown parameter"),
}
_OPENAI_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class _Answer(msgspec.Struct, frozen=True, kw_only=True):
    status: int
    kind: str
    title: str
    detail: str
    findings: tuple[Finding, ...] = ()
    retryable: bool = False
    retry_after_s: float | None = None
    headers: dict[str, str] = {}


def is_openai_route(path: str) -> bool:
    """Return whether errors on ``path`` take OpenAI's shape."""
    return path.startswith(_OPENAI_PREFIXES)


def handle(request: Request[Any, Any, Any], error: Exception) -> LeanResponse:
    """Return the answer for ``error``, as Litestar's exception handler."""
    if isinstance(error, ClientGoneError):
        # nobody reads it; the log shows the status
        return LeanResponse(ASGIResponse(status_code=499))
    answer = _answer(error)
    if answer.status >= 500 and answer.kind == "internal":  # noqa: PLR2004 - server errors
        logger.error("request failed", exc_info=error)
    return LeanResponse(_response(request.scope, answer))


async def denied(scope: Any, send: Any, status: int, detail: str) -> None:  # noqa: ANN401 - ASGI
    """Send the answer for a call that was refused before it reached a route."""
    kind, title = _HTTP_TITLES[status]
    response = _response(scope, _Answer(status=status, kind=kind, title=title, detail=detail))
    await response(scope, _never, send)


async def _never() -> Any:  # noqa: ANN401 - ASGI
    raise AssertionError("a refusal reads no body")


def _answer(error: Exception) -> _Answer:
    for kind, status, slug, title in _TABLE:
        if isinstance(error, kind):
            findings = getattr(error, "findings", ())
            details = getattr(error, "details", None) or str(error)
            if findings:
                worst = next((f for f in findings if f.severity == "error"), findings[0])
                plural = "s" if len(findings) > 1 else ""
                details = f"{len(findings)} finding{plural}: {worst.message}"
            return _Answer(
                status=status,
                kind=slug,
                title=title,
                detail=details,
                findings=findings,
                retryable=getattr(error, "retryable", False),
                retry_after_s=getattr(error, "retry_after_s", None),
            )
    if isinstance(error, HTTPException) and error.status_code < 500:  # noqa: PLR2004 - client errors
        status = error.status_code
        slug, title = _HTTP_TITLES.get(status, ("bad-request", "The request cannot be used"))
        detail, findings = _findings(error)
        if isinstance(error, NotFoundException):
            detail = _NO_ROUTE
        return _Answer(
            status=status,
            kind=slug,
            title=title,
            detail=detail,
            findings=findings,
            headers=error.headers or {},
        )
    return _Answer(
        status=500,
        kind="internal",
        title="A fault of the service",
        detail="the service failed; the log has the details under this request id",
    )


def _findings(error: HTTPException) -> tuple[str, tuple[Finding, ...]]:
    """Return what is wrong with a request in words, and where."""
    entries = [entry for entry in error.extra or () if isinstance(entry, dict)]
    if not entries:
        return error.detail, _place(error.detail)
    details: list[str] = []
    findings: list[Finding] = []
    for entry in entries:
        key, text = str(entry.get("key")), str(entry.get("message"))
        if entry.get("source") != "body":
            details.append(f"{key}: {text}")
            findings.append(Finding(pointer=f"/{key}", message=text, code="invalid_parameter"))
        elif text == "'data'":
            details.append("the body is empty")
        else:
            details.append(text if key == "data" else f"{text} - at `$.{key}`")
            findings.extend(_place(details[-1]))
    return "; ".join(details), tuple(findings)


def _place(detail: str) -> tuple[Finding, ...]:
    """Return the finding in msgspec's words about a body, which end in the place if it is known."""
    text, _, path = detail.partition(" - at `")
    pointer = _pointer(path.rstrip("`"))
    field = _FIELD.match(text)
    if field is not None:
        pointer = f"{pointer}/{escape(field['name'])}"
        code, wording = _FIELD_FAULTS[field["fault"]]
        return (Finding(pointer=pointer, message=f"{wording}: '{dotted(pointer)}'.", code=code),)
    return (Finding(pointer=pointer, message=text, code="invalid_request"),) if path else ()


def _pointer(path: str) -> str:
    """Return msgspec's ``$.rows[3].item`` as ``/rows/3/item``, and up to where it knows the key."""
    known = path.removeprefix("key in ").removeprefix("$").partition("[...]")[0]
    return known.replace("[", ".").replace("]", "").replace(".", "/")


def _response(scope: Any, answer: _Answer) -> ASGIResponse:  # noqa: ANN401 - ASGI
    headers = dict(answer.headers)
    if answer.retry_after_s is not None or answer.status in {429, 503}:
        headers["retry-after"] = str(max(1, round(answer.retry_after_s or 1)))
    if answer.status == 401:  # noqa: PLR2004 - unauthorised
        headers["www-authenticate"] = "Bearer"
    if is_openai_route(scope["path"]):
        media_type = "application/json"
        body = _encode(OpenAIErrorResponse(error=_openai_error(answer)))
    else:
        media_type = "application/problem+json"
        body = _encode(
            Problem(
                type=_TYPE_BASE + answer.kind,
                title=answer.title,
                status=answer.status,
                detail=answer.detail,
                request_id=scope.get("request_id", b"").decode() or None,
                errors=list(answer.findings) or None,
                retryable=answer.retryable,
            )
        )
    return ASGIResponse(
        body=body, status_code=answer.status, media_type=media_type, headers=headers
    )


def _openai_error(answer: _Answer) -> OpenAIError:
    errors = [finding for finding in answer.findings if finding.severity == "error"]
    kind = _OPENAI_TYPES.get(answer.status)
    if kind is None:
        kind = "invalid_request_error" if answer.status < 500 else "server_error"  # noqa: PLR2004
    if not errors:
        return OpenAIError(message=answer.detail, type=kind, code=answer.kind.replace("-", "_"))
    return OpenAIError(
        message="\n".join(finding.message for finding in errors),
        type=kind,
        param=dotted(errors[0].pointer),
        code=errors[0].code,
    )
