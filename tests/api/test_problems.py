"""Every exception as an HTTP answer, in both shapes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from litestar import Request
from litestar.exceptions import HTTPException, NotFoundException, SerializationException

from graders.errors import (
    BudgetExceededError,
    DefinitionError,
    EmbedderUnavailableError,
    EndpointUnavailableError,
    Finding,
    JudgeUnavailableError,
    OverloadedError,
    RowError,
    SandboxUnavailableError,
    UncarriedError,
    UnknownGraderError,
    UnknownVersionError,
)
from service.app import create_app
from service.judge import MissingRecordingError
from service.problems import InvalidRowsError, NotAvailableError, handle
from tests.api.world import calling, settings

WARNING = Finding(pointer="/name", message="No name.", code="no_name", severity="warning")
ERROR = Finding(pointer="/graders/a/input", message="Invalid input.", code="invalid_template")
SECOND = Finding(pointer="/calculate_output", message="Bad formula.", code="invalid_formula")

TABLE = [
    (DefinitionError([WARNING, ERROR, SECOND]), 400, "invalid-definition", "invalid_request_error"),
    (InvalidRowsError([ERROR]), 400, "invalid-rows", "invalid_request_error"),
    (RowError("model_sample is missing"), 400, "invalid-rows", "invalid_request_error"),
    (UnknownGraderError("x", []), 404, "unknown-grader", "invalid_request_error"),
    (UnknownVersionError("x", "2", ["1"]), 404, "unknown-version", "invalid_request_error"),
    (UncarriedError("azure", ["no"]), 422, "not-exportable", "invalid_request_error"),
    (MissingRecordingError("new"), 424, "missing-recording", "invalid_request_error"),
    (BudgetExceededError("spent"), 429, "budget-exceeded", "rate_limit_error"),
    (OverloadedError("full"), 429, "overloaded", "rate_limit_error"),
    (NotAvailableError("no judge"), 501, "not-available", "server_error"),
    (JudgeUnavailableError("down"), 503, "upstream-unavailable", "server_error"),
    (SandboxUnavailableError("down"), 503, "upstream-unavailable", "server_error"),
    (EmbedderUnavailableError("down"), 503, "upstream-unavailable", "server_error"),
    (EndpointUnavailableError("down"), 503, "upstream-unavailable", "server_error"),
    (NotFoundException(), 404, "not-found", "invalid_request_error"),
    (HTTPException(status_code=418, detail="short"), 418, "bad-request", "invalid_request_error"),
    (HTTPException(status_code=500, detail="hidden"), 500, "internal", "server_error"),
    (SerializationException("hidden"), 500, "internal", "server_error"),
    (ValueError("hidden"), 500, "internal", "server_error"),
]


def answered(error: Exception, path: str) -> tuple[Any, Any]:
    scope: Any = {"type": "http", "path": path, "headers": [], "request_id": b"r-1"}
    request: Request[Any, Any, Any] = Request(scope)
    response = handle(request, error).to_asgi_response(None, request)
    return response, json.loads(response.body)


@pytest.mark.parametrize(("error", "status", "kind", "hosted"), TABLE, ids=lambda x: str(x)[:30])
def test_answers_by_the_table(error: Exception, status: int, kind: str, hosted: str) -> None:
    response, problem = answered(error, "/v1/graders/x/versions/1/score")
    assert response.status_code == problem["status"] == status
    assert problem["type"] == f"urn:gradekeeper:problem:{kind}"
    assert problem["title"]
    assert problem["request_id"] == "r-1"
    assert "hidden" not in problem["detail"]
    other, body = answered(error, "/openai/v1/fine_tuning/alpha/graders/run")
    assert other.status_code == status
    assert body["error"]["type"] == hosted
    assert "hidden" not in body["error"]["message"]


def test_a_definition_shows_all_findings_and_is_summed_up_by_the_first_error() -> None:
    error = DefinitionError([WARNING, ERROR, SECOND])
    _, problem = answered(error, "/v1/graders/x/versions")
    assert problem["detail"] == "3 findings: Invalid input."
    assert [finding["pointer"] for finding in problem["errors"]] == [
        "/name",
        "/graders/a/input",
        "/calculate_output",
    ]
    _, body = answered(error, "/v1/fine_tuning/alpha/graders/run")
    assert body["error"] == {
        "message": "Invalid input.\nBad formula.",
        "type": "invalid_request_error",
        "param": "graders.a.input",
        "code": "invalid_template",
    }


@pytest.mark.parametrize(
    ("wait", "header"), [(None, "1"), (0.2, "1"), (2.6, "3"), (90.0, "90")], ids=str
)
def test_retry_after_is_whole_seconds_and_at_least_one(wait: float | None, header: str) -> None:
    response, problem = answered(JudgeUnavailableError("down", retry_after_s=wait), "/v1/graders")
    assert dict(response.headers)["retry-after"] == header
    assert problem["retryable"] is True


def test_what_no_retry_helps_is_said() -> None:
    _, problem = answered(JudgeUnavailableError("no", retryable=False), "/v1/graders")
    assert "retryable" not in problem


@pytest.mark.parametrize(
    ("detail", "pointer", "message"),
    [
        ("Expected `str`, got `int` - at `$.rows[3].item`", "/rows/3/item", "Expected `str`"),
        ("Number out of range - at `$.item[...]`", "/item", "Number out of range"),
        ("Expected `str`, got `int` - at `key in $.item`", "/item", "Expected `str`"),
        ("Object missing required field `a/b`", "/a~1b", "Missing required parameter: 'a/b'."),
        ("Object contains unknown field `x` - at `$.rows[0]`", "/rows/0/x", "Unknown parameter"),
    ],
)
def test_places_in_words_become_pointers(detail: str, pointer: str, message: str) -> None:
    error = HTTPException(status_code=400, detail=detail)
    _, problem = answered(error, "/v1/graders")
    assert problem["detail"] == detail
    assert [finding["pointer"] for finding in problem["errors"]] == [pointer]
    assert problem["errors"][0]["message"].startswith(message)


async def test_the_root_says_where_the_routes_are(definitions: Path) -> None:
    async with calling(create_app(settings(definitions))) as client:
        answer = await client.get("/")
        described = await client.get("/schema")
    assert answer.status_code == 404
    assert "/schema describes" in answer.json()["detail"]
    assert described.status_code == 200


def test_an_own_status_keeps_its_headers() -> None:
    error = HTTPException(status_code=405, headers={"allow": "GET"})
    response, _ = answered(error, "/v1/graders")
    assert dict(response.headers)["allow"] == "GET"


def test_a_traceback_goes_to_the_log_only(caplog: pytest.LogCaptureFixture) -> None:
    _, problem = answered(ValueError("hidden"), "/v1/graders")
    assert "hidden" in caplog.text
    assert problem["detail"].startswith("the service failed")
