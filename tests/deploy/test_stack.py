"""Secrets, Redis, two replicas and the load balancer of compose.yaml, really running together."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from http.client import HTTPConnection
from urllib.parse import urlsplit

import httpx
import pytest

from tests.api.world import EXACT, metric, wait_until, write_definitions
from tests.deploy.stack import Stack, running
from tests.fakes_upstream import Upstream
from tests.judge.served import Background

pytestmark = [pytest.mark.integration, pytest.mark.serial]

SCORE = "/v1/graders/exact/versions/latest/score"
RIGHT = {"item": {"answer": "Paris"}, "model_sample": "Paris"}


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with Background() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def stack(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("stack")
    environment = {
        "GRADEKEEPER_DEFINITIONS": str(write_definitions(folder / "definitions")),
        "GRADEKEEPER_SANDBOX": "off",
        "OPENAI_BASE_URL": upstream.url,
        "OPENAI_API_KEY": "sk-judge",
    }
    with running(folder, environment) as found:
        yield found


@pytest.fixture(autouse=True)
def whole(stack: Stack) -> Iterator[None]:
    """Every test finds and leaves both replicas at work."""
    yield
    for replica in stack.replicas:
        if replica.process.poll() is not None:
            replica.start()
    stack.settle()


def test_both_replicas_answer_with_the_made_key(stack: Stack) -> None:
    with stack.client() as client:
        answers = [client.post(SCORE, json=RIGHT) for _ in range(20)]
    assert {answer.json()["reward"] for answer in answers} == {1.0}
    # Request ids begin with what each process drew at its start.
    assert len({answer.headers["x-request-id"].partition("-")[0] for answer in answers}) == 2


def test_nobody_gets_in_without_a_key_or_with_too_small_a_one(stack: Stack) -> None:
    assert httpx.post(stack.gateway.url + SCORE, json=RIGHT).status_code == 401
    body = {"grader": EXACT, "item": {"answer": "Paris"}, "model_sample": "Paris"}
    run = "/v1/fine_tuning/alpha/graders/run"
    with stack.client("trainer") as client:
        assert client.get("/metrics").status_code == 403
        assert client.post(run, json=body).status_code == 403
    with stack.client("operator") as client:
        assert client.post(run, json=body).json()["reward"] == 1.0
    with stack.client("prometheus") as client:
        assert client.get("/metrics").status_code == 200
        assert client.post(SCORE, json=RIGHT).status_code == 403


def test_judge_is_paid_once_for_all_replicas(stack: Stack, upstream: Upstream) -> None:
    row = {"item": {"question": "q"}, "model_sample": "said once [[judge:0.75]]"}
    before = upstream.count
    headers = {"authorization": f"Bearer {stack.key('trainer')}"}
    for replica in stack.replicas:
        url = f"{replica.url}/v1/graders/judged/versions/latest/score"
        assert httpx.post(url, json=row, headers=headers, timeout=30).json()["reward"] == 0.75
    assert upstream.count - before == 1
    with stack.client("operator") as client:
        text = client.get("/metrics").text
    refused = [line for line in text.splitlines() if 'outcome="refused"' in line]
    assert not refused, "the user in the ACL file may do everything that the store does"


def test_what_one_replica_publishes_the_other_serves(stack: Stack) -> None:
    headers = {"authorization": f"Bearer {stack.key('operator')}"}
    one, other = (f"{replica.url}/v1/graders/published" for replica in stack.replicas)
    sent = httpx.post(f"{one}/versions", json={**EXACT, "name": "published"}, headers=headers)
    assert sent.status_code in {200, 201}, sent.text
    answer = httpx.post(f"{other}/versions/1/score", json=RIGHT, headers=headers)
    assert answer.json()["reward"] == 1.0


def test_everybody_else_may_only_ask_redis_whether_it_lives(stack: Stack) -> None:
    assert stack.redis.cli("ping") == "PONG"
    for command in (["get", "gradekeeper:{x}:v"], ["keys", "*"], ["config", "get", "*"]):
        assert stack.redis.cli(*command).startswith("NOPERM")


def test_killed_replica_costs_no_request(stack: Stack) -> None:
    answers: list[httpx.Response] = []
    stop = threading.Event()

    def ask() -> None:
        with stack.client() as client:
            while not stop.is_set():
                answers.append(client.post(SCORE, json=RIGHT))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(answers) > 50)
    stack.replicas[1].kill()
    after = len(answers)
    wait_until(lambda: len(answers) > after + 200, 30)
    stop.set()
    for thread in threads:
        thread.join(30)
    assert {answer.status_code for answer in answers} == {200}
    assert {answer.json()["reward"] for answer in answers} == {1.0}
    wait_until(lambda: stack.gateway.replicas_up() == 1)


def test_replica_that_joins_gets_requests_and_one_that_left_gets_none(stack: Stack) -> None:
    gone = stack.names.addresses.pop()
    try:
        wait_until(lambda: stack.gateway.replicas_up() == 1, 30)
    finally:
        stack.names.addresses.append(gone)
    wait_until(lambda: stack.gateway.replicas_up() == 2, 30)


def test_streams_pass_in_both_directions_at_once(stack: Stack) -> None:
    line = json.dumps(RIGHT).encode() + b"\n"
    chunk = f"{len(line):x}\r\n".encode() + line + b"\r\n"
    address = urlsplit(stack.gateway.url)
    connection = HTTPConnection(f"{address.hostname}:{address.port}", timeout=30)
    with contextlib.closing(connection):
        connection.putrequest("POST", f"{SCORE}/batch")
        for name, value in {
            "authorization": f"Bearer {stack.key('trainer')}",
            "content-type": "application/x-ndjson",
            "accept": "application/x-ndjson",
            "transfer-encoding": "chunked",
        }.items():
            connection.putheader(name, value)
        connection.endheaders()
        connection.send(chunk)
        answer = connection.getresponse()
        first = json.loads(answer.readline())  # while the request is still being sent
        connection.send(chunk + b"0\r\n\r\n")
        second = json.loads(answer.readline())
        answer.read()
    assert [first["reward"], second["reward"]] == [1.0, 1.0]


def test_polls_reach_the_process_that_took_the_submission(stack: Stack) -> None:
    url = "/v1/graders/exact/versions/latest/rewards/roll?label=answer"
    for _ in range(6):
        # Without kept connections, as ROLL calls, every request could go anywhere.
        with stack.client() as client:
            body = {"prompt": "?", "response": "Paris", "reward_info": {"ground_truth": "Paris"}}
            submitted = client.post(url, json=body).json()["reward_request_id"]
        with stack.client() as client:
            poll = {"reward_request_id": submitted}
            answer = client.request("GET", url, json=poll).json()
        assert answer["errcode"] in {0, 1}, answer


def test_keys_in_urls_and_bodies_are_not_logged_by_the_load_balancer(stack: Stack) -> None:
    key = stack.key("trainer")
    url = f"{stack.gateway.url}/v1/k/{key}/graders/exact/versions/latest/rewards/slime?label=answer"
    body = {"prompt": "?", "response": "a secret sample", "label": "Paris"}
    before = stack.gateway.log.stat().st_size
    assert httpx.post(url, json=body).status_code == 200
    wait_until(lambda: stack.gateway.log.stat().st_size > before)
    log = stack.gateway.log.read_text()
    assert " 200 " in log
    assert key not in log
    assert "secret sample" not in log


def test_callers_cannot_forge_their_address(stack: Stack) -> None:
    with stack.client(**{"x-forwarded-for": "10.9.8.7"}) as client:
        asked = client.post(SCORE, json=RIGHT).headers["x-request-id"]
    wait_until(lambda: len(lines_about(stack, asked)) == 1)
    assert '"client":"127.0.0.1"' in lines_about(stack, asked)[0]


def lines_about(stack: Stack, request_id: str) -> list[str]:
    """Return what the replicas log about one request."""
    logs = [replica.log.read_text() for replica in stack.replicas]
    return [line for log in logs for line in log.splitlines() if request_id in line]


def test_service_counts_are_there_for_prometheus(stack: Stack) -> None:
    with stack.client("prometheus") as client:
        text = client.get("/metrics").text
    assert metric(text, "gradekeeper_store_away") == 0.0
    assert "gradekeeper_requests_total" in text
