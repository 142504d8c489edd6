"""Bad input: every case is answered with a typed error that names the place, and harms nobody."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from service.app import create_app
from tests.api.world import (
    EXACT,
    PARTS,
    Live,
    calling,
    lines,
    running,
    serving,
    settings,
)

RUN = "/v1/fine_tuning/alpha/graders/run"
VALIDATE = "/v1/fine_tuning/alpha/graders/validate"
SCORE = "/v1/graders/exact/versions/1/score"
BATCH = SCORE + "/batch"
DEEP = b"[" * 10_000 + b"]" * 10_000
GRADER = json.dumps(EXACT).encode()


def run_body(grader: bytes) -> bytes:
    return b'{"model_sample": "x", "grader": ' + grader + b"}"


def with_field(value: bytes) -> bytes:
    """Return a good grader with a further field."""
    return GRADER[:-1] + b', "note": ' + value + b"}"


def changed(**fields: Any) -> bytes:
    return json.dumps({"grader": {**EXACT, **fields}, "model_sample": "x"}).encode()


def formula(text: str) -> bytes:
    return json.dumps({"grader": {**PARTS, "calculate_output": text}, "model_sample": "x"}).encode()


CASES = [
    pytest.param(path, body, 400, id=f"{name} to {path.rpartition('/')[2]}")
    for path, (name, body) in itertools.product(
        (RUN, VALIDATE, SCORE, BATCH),
        {
            "nothing": b"",
            "white space": b"  \n ",
            "a torn object": b'{"grader": {',
            "a bare word": b"hello",
            "a byte order mark": b'\xef\xbb\xbf{"model_sample": "x"}',
            "two documents": b"{}{}",
            "an array": b"[]",
            "null": b"null",
            "a number": b"1",
            "deep nesting": DEEP,
            "deep objects": b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
            "deep nesting in a field": b'{"item": ' + DEEP + b', "model_sample": "x"}',
            "invalid UTF-8": b'{"model_sample": "\xff\xfe"}',
            "an invalid UTF-8 key": b'{"\xff": 1}',
            "a lone surrogate": b'{"model_sample": "\\ud800"}',
            "NaN": b'{"item": {"answer": NaN}, "model_sample": "x"}',
            "a control character": b'{"model_sample": "\x00"}',
            "a comment": b'{"model_sample": "x" /* here */}',
            "single quotes": b"{'model_sample': 'x'}",
        }.items(),
    )
]
CASES += [
    pytest.param(path, body, 400, id=f"{name} to {path.rpartition('/')[2]}")
    for path, (name, body) in itertools.product(
        (RUN, VALIDATE),
        {
            "a grader that is a text": run_body(b'"string_check"'),
            "a grader that is null": run_body(b"null"),
            "a deep grader": run_body(DEEP),
            "a grader with a deep field": run_body(with_field(DEEP)),
            "a grader with a rather deep field": run_body(with_field(b"[" * 900 + b"]" * 900)),
            "a grader with invalid UTF-8": run_body(with_field(b'"\xff"')),
            "a grader with a number out of range": run_body(with_field(b"1e999")),
            "a grader with an endless integer": run_body(with_field(b"9" * 5_000)),
            "a grader without a type": run_body(b"{}"),
            "a grader of an unknown type": run_body(b'{"type": "nothing"}'),
            "a template that never ends": changed(input="{{" * 500_000),
            "a megabyte of placeholders": changed(input="{{item.a}}" * 100_000),
            "a fault behind a megabyte": changed(input="x" * 1_000_000 + "{{bad}}"),
            "a formula of brackets": formula("(" * 5_000 + "same" + ")" * 5_000),
            "a formula of signs": formula("-" * 9_990 + "same"),
            "an endless formula": formula("+".join(["same"] * 50_000)),
            "a formula with an unknown name": formula("same + other"),
            "a formula that calls": formula("__import__('os')"),
            "a formula with nothing": formula(""),
        }.items(),
    )
]
CASES += [
    pytest.param(SCORE, b'{"item": {"answer": 1e999}, "model_sample": "x"}', 400, id="1e999"),
    pytest.param(
        SCORE, b'{"item": {"answer": ' + b"9" * 5_000 + b'}, "model_sample": "x"}', 400, id="9…9"
    ),
    pytest.param(RUN, b'{"grader": {"type": "x"}, "item": 1}', 400, id="an item that is a number"),
    pytest.param(RUN, b'{"model_sample": "x"}', 400, id="a run without a grader"),
]

FINE = [
    pytest.param(
        SCORE, b'{"item": {"answer": "y"}, "model_sample": "x", "model_sample": "y"}', id="twice"
    ),
    pytest.param(
        SCORE, b'{"item": {"answer": ' + b"9" * 400 + b'}, "model_sample": "x"}', id="large integer"
    ),
    pytest.param(SCORE, b'{"item": {"answer": -0.0}, "model_sample": "x"}', id="negative zero"),
    pytest.param(SCORE, b'{"item": {"answer": "\\ud83d\\ude00"}, "model_sample": "x"}', id="pair"),
    pytest.param(SCORE, b'{"item": {"answer": "\\u0000"}, "model_sample": "\\u0000"}', id="NUL"),
    *(
        pytest.param(
            SCORE,
            b'{"item": {"answer": ' + b"[" * depth + b"]" * depth + b'}, "model_sample": "x"}',
            id=f"{depth} arrays",
        )
        for depth in (100, 500, 900, 950)
    ),
    pytest.param(VALIDATE, b'{"grader": ' + with_field(b"9" * 400) + b"}", id="large in grader"),
    pytest.param(RUN, changed(input="x" * 1_000_000, reference="y"), id="megabyte of text"),
    pytest.param(RUN, formula("exp(1000 * (1 - 2 * same))"), id="formula that overflows"),
    pytest.param(RUN, formula("0 / 0 + same"), id="formula that is undefined"),
    pytest.param(RUN, formula("10 ^ 10 ^ 10 + same"), id="formula of towers"),
]


@pytest.fixture(scope="module")
def service(definitions: Path) -> Iterator[Live]:
    with serving(settings(definitions)) as live:
        yield live


@pytest.fixture(scope="module")
def client(service: Live) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service.url, timeout=20) as caller:
        yield caller


def check_problem(response: httpx.Response, path: str) -> str:
    """Check the shape of an error and return what it says."""
    assert "Traceback" not in response.text
    assert ".py" not in response.text
    assert len(response.content) < 20_000
    if path in {RUN, VALIDATE}:
        error = response.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["type"] == "invalid_request_error"
        return str(error["message"])
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem["status"] == response.status_code
    assert problem["type"].startswith("urn:gradekeeper:problem:")
    return str(problem["detail"])


@pytest.mark.parametrize(("path", "body", "status"), CASES)
def test_what_cannot_be_read_is_a_typed_400(
    client: httpx.Client, path: str, body: bytes, status: int
) -> None:
    response = client.post(path, content=body)
    assert response.status_code == status
    assert check_problem(response, path)


@pytest.mark.parametrize(("path", "body"), FINE)
def test_what_is_only_odd_is_answered(client: httpx.Client, path: str, body: bytes) -> None:
    response = client.post(path, content=body)
    assert response.status_code in {200, 400}
    if response.status_code == 200:
        json.loads(response.content, parse_constant=refuse)
    else:
        check_problem(response, path)


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")


@pytest.mark.parametrize(
    "kind",
    [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/msgpack",
        "application/json; charset=utf-16",
        "nonsense",
        "",
    ],
)
def test_the_content_type_of_json_does_not_matter(client: httpx.Client, kind: str) -> None:
    body = b'{"item": {"answer": "x"}, "model_sample": "x"}'
    for path in (SCORE, BATCH):
        sent = body if path == SCORE else b'{"rows": [' + body + b"]}"
        response = client.post(path, content=sent, headers={"content-type": kind})
        assert response.status_code == 200


def test_form_data_is_a_typed_400(client: httpx.Client) -> None:
    for path in (SCORE, BATCH, RUN):
        response = client.post(path, data={"model_sample": "x"})
        assert response.status_code == 400
        check_problem(response, path)


class TestMethods:
    @pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "HEAD"])
    @pytest.mark.parametrize("path", [RUN, SCORE, BATCH])
    def test_others_than_post_are_405_and_told_what_is_allowed(
        self, client: httpx.Client, method: str, path: str
    ) -> None:
        response = client.request(method, path)
        assert response.status_code == 405
        assert set(response.headers["allow"].split(", ")) == {"POST", "OPTIONS"}
        if method != "HEAD":
            check_problem(response, path)

    @pytest.mark.parametrize("path", ["/healthz", "/v1/graders", "/metrics"])
    def test_posting_to_what_is_only_read_is_405(self, client: httpx.Client, path: str) -> None:
        response = client.post(path, content=b"x" * 100_000)
        assert response.status_code == 405
        assert set(response.headers["allow"].split(", ")) == {"GET", "OPTIONS"}

    @pytest.mark.parametrize("path", [RUN, SCORE, "/healthz"])
    def test_options_names_the_methods(self, client: httpx.Client, path: str) -> None:
        response = client.options(path)
        assert response.status_code == 204
        assert "OPTIONS" in response.headers["allow"]

    @pytest.mark.parametrize("path", ["/", "/v1", "/favicon.ico", "/v1/graders/exact/score"])
    def test_unknown_paths_are_404(self, client: httpx.Client, path: str) -> None:
        response = client.get(path)
        assert response.status_code == 404
        check_problem(response, path)

    def test_unknown_paths_under_openais_prefix_take_its_shape(self, client: httpx.Client) -> None:
        response = client.post("/openai/v1/chat/completions", json={})
        assert response.status_code == 404
        assert response.json()["error"]["type"] == "invalid_request_error"

    def test_a_strange_host_is_a_typed_400(self, client: httpx.Client) -> None:
        response = client.get("/healthz", headers={"host": "a b<script>"})
        assert response.status_code == 400


class TestSize:
    @pytest.fixture(scope="class")
    @classmethod
    def small(cls, definitions: Path) -> Iterator[httpx.Client]:
        with (
            serving(settings(definitions, max_body_bytes=4096)) as live,
            httpx.Client(base_url=live.url, timeout=20) as caller,
        ):
            yield caller

    @pytest.mark.parametrize("path", [RUN, SCORE, BATCH])
    @pytest.mark.parametrize("chunked", [False, True], ids=["with length", "chunked"])
    def test_over_the_limit_is_413(self, small: httpx.Client, path: str, chunked: bool) -> None:
        body = b'{"model_sample": "' + b"x" * 300_000 + b'"}'
        content: Any = iter([body[:100], body[100:5_000], body[5_000:]]) if chunked else body
        response = small.post(path, content=content)
        assert response.status_code == 413
        assert "4096 bytes" in check_problem(response, path)

    def test_up_to_the_limit_is_taken(self, small: httpx.Client) -> None:
        frame = b'{"item": {"answer": ""}, "model_sample": ""}'
        body = frame.replace(b'sample": "', b'sample": "' + b"x" * (4096 - len(frame)))
        assert len(body) == 4096
        assert small.post(SCORE, content=body).status_code == 200
        assert small.post(SCORE, content=body + b" ").status_code == 413

    def test_a_stream_may_be_longer(self, small: httpx.Client) -> None:
        body = lines([{"item": {"answer": "x"}, "model_sample": "x"}]) * 1_000
        response = small.post(BATCH, content=body, headers={"content-type": "application/x-ndjson"})
        assert len(response.content.splitlines()) == 1_001

    def test_a_body_nobody_asked_for_is_left_unread(self, small: httpx.Client) -> None:
        response = small.request("GET", "/v1/graders", content=b"x" * 1_000_000)
        assert response.status_code == 200


async def test_a_wrong_length_is_judged_by_what_arrives(definitions: Path) -> None:
    app = create_app(settings(definitions, max_body_bytes=4096))
    async with calling(app) as caller:
        headers = {"content-length": "10"}
        response = await caller.post(SCORE, content=b"x" * 5_000, headers=headers)
    assert response.status_code == 413


def test_a_storm_of_it_does_not_grow_the_memory(definitions: Path, tmp_path: Path) -> None:
    with (
        running(
            definitions,
            tmp_path / "log",
            GRADEKEEPER_LOG_LEVEL="error",
            GRADEKEEPER_RUN_CACHE_ENTRIES="16",
            GRADEKEEPER_MAX_BODY_BYTES="2000000",
        ) as child,
        httpx.Client(base_url=child.url, timeout=20) as caller,
    ):
        memory = psutil.Process(child.process.pid).memory_info
        storm(caller, 1)
        before = memory().rss
        storm(caller, 3)
        assert memory().rss - before < 24 * 1024 * 1024
        assert caller.get("/healthz").status_code == 200
        assert child.events() == []


def storm(caller: httpx.Client, rounds: int) -> None:
    """Send every bad case, and others that differ each time so that nothing can be remembered."""
    for turn in range(rounds):
        for case in CASES:
            path, body, status = case.values
            assert isinstance(path, str)
            assert isinstance(body, bytes)
            assert caller.post(path, content=body).status_code == status
        for number in range(100):
            mark = f"{turn}-{number}-" + "x" * 50_000
            caller.post(RUN, content=changed(reference=mark))
            caller.get(f"/v1/graders/{mark[:1_500]}")
            caller.get(f"/{mark[:30_000]}")
            caller.post(SCORE, content=b"x" * 2_100_000 if number % 50 == 0 else mark.encode())
