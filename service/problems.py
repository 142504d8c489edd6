"""Every exception as an HTTP answer: one table, two shapes.

Native routes answer ``application/problem+json`` (RFC 9457); OpenAI-compatible ones ``{"error":
{…}}``, which the official clients turn into their own exceptions. A traceback goes to the log,
never out.
"""

from __future__ import annotations

import logging
from typing import Any

import msgspec
from litestar.connection import Request
from litestar.exceptions import HTTPException
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
from graders.wording import dotted
from service.lean import ClientGoneError, LeanResponse
from service.wire import OpenAIError, OpenAIErrorResponse, Problem

logger = logging.getLogger(__name__)

_TYPE_BASE = "urn:gradekeeper:problem:"
_OPENAI_PREFIXES = ("/v1/fine_tuning/", "/openai/v1/")
_encode = msgspec.json.Encoder().encode


class NotAvailableError(GraderError):
    """This process has no port for this kind of grader; nothing to retry here."""


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
    (UncarriedError, 422, "not-exportable", "The target cannot take this grader"),
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
    415: ("unsupported-media-type", "This content type is not taken"),
    429: ("overloaded", "Too many calls are waiting"),
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
                plural = "s" if len(findings) > 1 else ""
                details = f"{len(findings)} finding{plural}: {findings[0].message}"
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
        return _Answer(
            status=status,
            kind=slug,
            title=title,
            detail=error.detail,
            findings=_findings(error),
            headers=error.headers or {},
        )
    return _Answer(
        status=500,
        kind="internal",
        title="A fault of the service",
        detail="the service failed; the log has the details under this request id",
    )


def _findings(error: HTTPException) -> tuple[Finding, ...]:
    """Return where a request's JSON is wrong, as pointers."""
    text, found, path = error.detail.rpartition(" - at `")
    if found:
        pointer = _pointer(path.rstrip("`"))
        return (Finding(pointer=pointer, message=text, code="invalid_request"),)
    extra = error.extra if isinstance(error.extra, list) else []
    return tuple(
        Finding(
            pointer=f"/{entry.get('key', '')}", message=entry["message"], code="invalid_parameter"
        )
        for entry in extra
        if isinstance(entry, dict) and "message" in entry
    )


def _pointer(path: str) -> str:
    """Return msgspec's ``$.rows[3].item`` as ``/rows/3/item``."""
    steps = path.removeprefix("key in ").removeprefix("$").replace("[", ".").replace("]", "")
    return steps.replace(".", "/")


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
