"""What endpoint graders are sent, and what becomes of every answer."""

import asyncio
import contextlib
import logging
import re
import socket
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from graders.building import Options
from graders.engine import compile_grader
from graders.errors import EndpointUnavailableError, InputTooLongError, OverloadedError
from graders.ports import EndpointCall, Ports
from graders.sample import Sample
from service.endpoint_caller import EndpointConfig, HttpEndpointCaller
from service.endpoint_caller.pace import Pace
from tests.endpoint.servers import (
    Handler,
    Server,
    flood,
    garbage,
    half,
    hang_up,
    reply,
    running,
    score,
)

QUICK = EndpointConfig(
    allowed_networks=("127.0.0.0/8",), first_pause_s=0.01, max_pause_s=0.1, timeout_s=5
)
Make = Callable[..., HttpEndpointCaller]


@pytest.fixture
async def make() -> AsyncIterator[Make]:
    made: list[HttpEndpointCaller] = []

    def build(config: EndpointConfig = QUICK, **options: Any) -> HttpEndpointCaller:
        made.append(HttpEndpointCaller(config, **options))
        return made[-1]

    yield build
    for caller in made:
        await caller.close()


def call_of(server: Server, **fields: Any) -> EndpointCall:
    values: dict[str, Any] = {"headers": {}, "body": {"sample": {}, "item": {}}, **fields}
    return EndpointCall(url=server.url, **values)


async def failure_of(caller: HttpEndpointCaller, call: EndpointCall) -> EndpointUnavailableError:
    with pytest.raises(EndpointUnavailableError) as caught:
        await caller.call(call)
    return caught.value


async def test_the_request_is_the_published_one(make: Make) -> None:
    async with running(score(0.25)) as server:
        body = {"sample": {"output_text": "é"}, "item": {"answer": 7}}
        headers = {"Authorization": "Bearer s3cret", "Content-Type": "application/vnd.x+json"}
        answer = await make().call(call_of(server, body=body, headers=headers))
    assert answer.body == b'{"score": 0.25}'
    (request,) = server.requests
    assert list(request.json) == ["sample", "item", "trace_id"]
    assert request.json["sample"] == {"output_text": "é"}
    assert request.json["item"] == {"answer": 7}
    assert re.fullmatch(r"trace_[0-9a-f]{32}", request.json["trace_id"])
    assert request.headers["authorization"] == "Bearer s3cret"
    assert request.headers["content-type"] == "application/vnd.x+json"
    assert request.headers["user-agent"] == "gradekeeper"
    assert "cookie" not in request.headers


async def test_connections_are_reused_and_trace_ids_are_not(make: Make) -> None:
    async with running(score(1.0)) as server:
        caller = make()
        for _ in range(5):
            await caller.call(call_of(server))
        await caller.close()
        await caller.close()
    assert server.connections == 1
    assert len({request.json["trace_id"] for request in server.requests}) == 5


async def test_cookies_are_not_kept(make: Make) -> None:
    async with running(reply(200, b"{}", {"Set-Cookie": "a=b"}), score(1.0)) as server:
        caller = make()
        await caller.call(call_of(server))
        await caller.call(call_of(server))
    assert "cookie" not in server.requests[1].headers


@pytest.mark.parametrize(
    "failing",
    [reply(500), reply(503), reply(429), hang_up, half, garbage],
    ids=["500", "503", "429", "hang-up", "half", "garbage"],
)
async def test_two_failures_are_retried_with_the_same_trace_id(
    make: Make, failing: Handler
) -> None:
    async with running(failing, failing, score(0.5)) as server:
        answer = await make().call(call_of(server))
    assert answer.body == b'{"score": 0.5}'
    assert len(server.requests) == 3
    assert len({request.json["trace_id"] for request in server.requests}) == 1


async def test_after_three_retries_it_is_unavailable(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with running(reply(502)) as server:
        error = await failure_of(make(), call_of(server, headers={"X-Key": "s3cret"}))
    assert len(server.requests) == 4
    assert (error.retryable, error.kind) == (True, "http_502")
    assert str(error) == "127.0.0.1 answered 502"
    assert "s3cret" not in caplog.text
    (record,) = [r for r in caplog.records if r.name.startswith("service.")]
    assert record.__dict__["fields"]["attempts"] == 4
    assert record.__dict__["fields"]["trace_id"] == server.requests[0].json["trace_id"]


@pytest.mark.parametrize("status", [400, 401, 404, 413, 422])
async def test_client_errors_are_not_retried(make: Make, status: int) -> None:
    async with running(reply(status, b"s3cret of theirs")) as server:
        error = await failure_of(make(), call_of(server))
    assert len(server.requests) == 1
    assert (error.retryable, error.kind) == (False, f"http_{status}")
    assert "s3cret" not in str(error)


@pytest.mark.attack
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_not_followed(make: Make, status: int) -> None:
    async with (
        running(score(1.0)) as inner,
        running(reply(status, headers={"Location": inner.url})) as server,
    ):
        error = await failure_of(make(), call_of(server))
    assert inner.connections == 0
    assert len(server.requests) == 1
    assert not error.retryable
    assert "redirect" in str(error)


async def test_a_nobody_at_the_port_is_retried_then_unavailable(make: Make) -> None:
    async with running(score(1.0)) as server:
        call = call_of(server)
    error = await failure_of(make(), call)
    assert (error.retryable, error.kind) == (True, "connection")


async def test_an_unknown_name_is_retried_then_unavailable(make: Make) -> None:
    call = EndpointCall(url="http://no-such-host.invalid/", headers={}, body={})
    error = await failure_of(make(), call)
    assert (error.retryable, error.kind) == (True, "connection")


@pytest.mark.parametrize(
    "url", ["ftp://127.0.0.1/x", "file:///etc/passwd", "http://", "gopher:", "http://[::1/"]
)
async def test_other_schemes_are_refused(make: Make, url: str) -> None:
    error = await failure_of(make(), EndpointCall(url=url, headers={}, body={}))
    assert (error.retryable, error.kind) == (False, "invalid_url")


async def test_a_connection_that_is_not_accepted_is_retried_then_unavailable(make: Make) -> None:
    config = EndpointConfig(
        allowed_networks=("127.0.0.0/8",), connect_timeout_s=0.1, retries=1, first_pause_s=0.01
    )
    with contextlib.ExitStack() as stack:
        full = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(3):  # beyond these the kernel answers nobody
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        url = f"http://127.0.0.1:{full.getsockname()[1]}/"
        error = await failure_of(make(config), EndpointCall(url=url, headers={}, body={}))
    assert (error.retryable, error.kind) == (True, "connection")


async def test_a_slow_answer_is_a_timeout_and_not_retried(make: Make) -> None:
    config = EndpointConfig(allowed_networks=("127.0.0.0/8",), timeout_s=0.2)
    async with running(score(1.0, pause_s=5)) as server:
        started = time.monotonic()
        error = await failure_of(make(config), call_of(server))
    assert time.monotonic() - started < 2
    assert len(server.requests) == 1
    assert (error.retryable, error.kind) == (True, "timeout")


async def test_retry_after_is_honoured(make: Make) -> None:
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    config = EndpointConfig(allowed_networks=("127.0.0.0/8",), first_pause_s=0.5)
    wait = reply(503, headers={"Retry-After": "7"})
    async with running(wait, wait, score(1.0)) as server:
        await make(config, sleep=sleep).call(call_of(server))
    assert [7 <= pause <= 7.5 for pause in pauses] == [True, True]


async def test_a_retry_after_beyond_the_limit_ends_the_call(make: Make) -> None:
    async with running(reply(429, headers={"Retry-After": "3600"})) as server:
        error = await failure_of(make(), call_of(server))
    assert len(server.requests) == 1
    assert (error.retryable, error.retry_after_s) == (True, 3600)


@pytest.mark.attack
@pytest.mark.parametrize("answer", [reply(200, b"x" * 1_000_001), flood], ids=["long", "endless"])
async def test_an_answer_too_large_is_given_up(make: Make, answer: Handler) -> None:
    async with running(answer) as server:
        error = await failure_of(make(), call_of(server))
    assert len(server.requests) == 1
    assert (error.retryable, error.kind) == (False, "answer_too_large")


@pytest.mark.attack
async def test_a_compressed_answer_is_not_unpacked(make: Make) -> None:
    async with running(reply(200, b"\x1f\x8b bomb", {"Content-Encoding": "gzip"})) as server:
        answer = await make().call(call_of(server))
    assert answer.body == b"\x1f\x8b bomb"
    assert server.requests[0].headers["accept-encoding"] == "identity"


async def test_an_item_too_large_is_a_failure_of_the_sample(make: Make) -> None:
    async with running(score(1.0)) as server:
        with pytest.raises(InputTooLongError, match="1000000 are allowed"):
            await make().call(call_of(server, body={"item": {"text": "x" * 1_000_000}}))
    assert server.connections == 0


@pytest.mark.attack
@pytest.mark.parametrize("name", ["Host", "content-length", "Transfer-Encoding", "Connection"])
async def test_headers_that_frame_the_request_are_refused(make: Make, name: str) -> None:
    async with running(score(1.0)) as server:
        error = await failure_of(make(), call_of(server, headers={name: "s3cret"}))
    assert server.connections == 0
    assert (error.retryable, error.kind) == (False, "invalid_header")
    assert "s3cret" not in str(error)


async def test_a_rate_limit_spaces_the_calls_of_one_url(make: Make) -> None:
    async with running(score(1.0)) as server:
        caller = make()
        started = time.monotonic()
        await asyncio.gather(*(caller.call(call_of(server, rate_limit=50)) for _ in range(11)))
        seconds = time.monotonic() - started
    assert 0.19 < seconds < 1.5


async def test_a_rate_limit_with_too_many_waiting_is_overload(make: Make) -> None:
    async with running(score(1.0)) as server:
        caller = make()
        await caller.call(call_of(server, rate_limit=0.001))
        with pytest.raises(OverloadedError, match=r"limited to 0\.001/s") as caught:
            await caller.call(call_of(server, rate_limit=0.001))
    assert caught.value.retry_after_s == 60
    assert caught.value.flag == "endpoint_grader_server_error"
    assert len(server.requests) == 1


def test_a_pace_forgets_urls_it_no_longer_holds_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.endpoint_caller.pace._MAX_URLS", 2)
    now = [0.0]
    pace = Pace(lambda: now[0])
    assert [pace.wait_s(url, 1, most_s=5) for url in ("a", "b", "a")] == [0, 0, 1]
    now[0] = 1.5
    assert pace.wait_s("c", 1, most_s=5) == 0
    assert set(pace._next) == {"a", "c"}
    assert pace.wait_s("a", 1, most_s=5) == 0.5


async def test_exchanges_under_way_are_bounded(make: Make) -> None:
    under_way, most = 0, 0

    async def count(request: Any, writer: Any) -> None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.02)
        under_way -= 1
        await score(1.0)(request, writer)

    config = EndpointConfig(allowed_networks=("127.0.0.0/8",), concurrency=3)
    async with running(count) as server:
        caller = make(config)
        await asyncio.gather(*(caller.call(call_of(server)) for _ in range(12)))
    assert most == 3
    assert server.connections == 3


async def test_a_cancelled_call_closes_its_connection_and_frees_its_place(make: Make) -> None:
    config = EndpointConfig(allowed_networks=("127.0.0.0/8",), concurrency=1)
    async with running(score(1.0, pause_s=30), score(0.5)) as server:
        caller = make(config)
        task = asyncio.create_task(caller.call(call_of(server)))
        await server.asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        answer = await caller.call(call_of(server))
        assert answer.body == b'{"score": 0.5}'
        assert server.gone == 1


@pytest.mark.parametrize(
    ("answer", "code", "reward"),
    [
        (score(0.75), None, 0.75),
        (reply(200, b'{"score": NaN}'), "endpoint_reply", 0.0),
        (reply(200, b'{"score": 1e999}'), "endpoint_reply", 0.0),
        (reply(200, b'{"score": "1"}'), "endpoint_reply", 0.0),
        (reply(200, b"<html>"), "endpoint_reply", 0.0),
        (reply(204), "endpoint_reply", 0.0),
        (reply(404), "endpoint_unavailable", 0.0),
    ],
    ids=["score", "nan", "infinity", "text", "html", "empty", "404"],
)
async def test_a_definition_grades_through_the_engine(
    make: Make, answer: Handler, code: str | None, reward: float
) -> None:
    async with running(answer) as server:
        document = {"type": "endpoint", "url": server.url, "headers": {"X-Key": "k"}}
        grader = compile_grader(document, Options(), purpose="run")
        grade = await grader.grade({"a": 1}, Sample("text"), Ports(endpoint=make()))
    assert grade.reward == reward
    assert [failure.code for failure in grade.failures] == ([code] if code else [])
    assert server.requests[0].json["sample"]["output_text"] == "text"
    assert server.requests[0].json["item"] == {"a": 1}


def test_it_runs_on_uvloop() -> None:
    import uvloop

    async def main() -> None:
        async with running(reply(500), score(1.0)) as server:
            caller = HttpEndpointCaller(QUICK)
            await caller.call(call_of(server))
            refused = HttpEndpointCaller(EndpointConfig())
            assert (await failure_of(refused, call_of(server))).kind == "address_refused"
            await caller.close()
            await refused.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


def test_importing_and_building_it_does_not_load_the_http_client() -> None:
    import subprocess
    import sys

    code = (
        "import sys; from service.endpoint_caller import *; HttpEndpointCaller(EndpointConfig());"
        "assert 'aiohttp' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
