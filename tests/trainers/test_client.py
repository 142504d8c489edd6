"""The client against a real gradekeeper server and one that plays a script of failures."""

import asyncio
import json
import shutil
import ssl
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from service.trainers.client import Client
from service.trainers.errors import RefusedError
from service.trainers.rows import Row, encode_row
from service.trainers.source import Source
from tests.trainers.servers import (
    KEY,
    Answer,
    after,
    flaky,
    good,
    good_then_close,
    hang_up,
    results,
    status,
)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.trainers.client._FIRST_PAUSE_S", 0.02)


def rows(*texts: str, **item: Any) -> list[bytes]:
    return [encode_row(Row(item=item, fields={"model_sample": text})) for text in texts]


def client(url: str, **settings: Any) -> Client:
    return Client(Source(**{"url": url, "grader": "capital@1", "deadline_s": 5, **settings}))


def test_a_real_server_grades_in_order(url: str) -> None:
    given = client(url, key=KEY, batch_rows=7).score(
        rows(*["Paris", "Rome"] * 25, "Paris", answer="Paris")
    )
    assert [result.reward for result in given] == [1.0, 0.0] * 25 + [1.0]
    assert given[0].passed
    assert not given[1].passed


def test_no_rows_are_no_request(url: str) -> None:
    assert client(url, key="wrong").score([]) == []
    assert asyncio.run(client(url, key="wrong").score_async([])) == []


def test_a_multi_gives_its_sub_rewards(url: str) -> None:
    (given,) = client(url, key=KEY, grader="parts@1").score(rows("Paris, France", answer="Paris"))
    assert given.reward == 0.25
    assert given.sub_rewards == {"exact": 0.0, "part": 1.0}


def test_a_row_that_cannot_be_graded_spoils_no_other(url: str) -> None:
    good_text = json.dumps({"answer": "Paris"})
    first, second = client(url, key=KEY, grader="needs-json@1").score(
        rows("no json", good_text, answer="Paris")
    )
    assert first.reward is None
    assert first.failure is not None
    assert (first.failure.code, first.failure.outage) == ("invalid_variable", False)
    assert second.reward == 1.0


def test_what_the_server_cannot_ask_is_an_outage(url: str) -> None:
    started = time.monotonic()
    (given,) = client(url, key=KEY, grader="judged@1").score(rows("x"))
    assert given.failure is not None
    assert given.failure.outage
    assert not given.failure.retryable
    assert time.monotonic() - started < 2


@pytest.mark.parametrize(
    ("settings", "code", "said"),
    [
        ({"key": "wrong"}, "http_401", "a valid API key is needed"),
        ({"key": None}, "http_401", "a valid API key is needed"),
        ({"grader": "unknown@1"}, "http_404", "no grader is named 'unknown'"),
        ({"grader": "capital@7"}, "http_404", "has no version '7'"),
    ],
)
def test_a_wrong_set_up_is_said_at_once(
    url: str, settings: dict[str, Any], code: str, said: str
) -> None:
    with pytest.raises(RefusedError, match=said) as caught:
        client(url, **{"key": KEY, **settings}).score(rows("x"))
    assert caught.value.code == code
    assert KEY not in str(caught.value)


def test_a_batch_larger_than_the_server_takes_is_halved(url: str) -> None:
    given = client(url, key=KEY, batch_rows=250).score(rows(*["Paris"] * 250, answer="Paris"))
    assert [result.reward for result in given] == [1.0] * 250


def test_a_row_larger_than_the_server_takes_is_refused() -> None:
    with flaky(status(413)) as server, pytest.raises(RefusedError, match="too_large"):
        client(server.url).score(rows("x", "y"))
    assert [len(body["rows"]) for body in server.bodies] == [2, 1]


def test_the_key_travels_in_the_header_only() -> None:
    source = Source(url="http://a.test", grader="a@1", key="gk-secret")
    assert "gk-secret" not in repr(source)
    with flaky(good) as server:
        client(server.url, key="gk-secret").score(rows("x"))
    assert server.headers[0]["Authorization"] == "Bearer gk-secret"


@pytest.mark.parametrize(
    "failing",
    [
        *(status(code) for code in (408, 425, 429, 500, 502, 503, 504)),
        hang_up,
        status(200, b"<html>a proxy's page</html>"),
        status(200, b'{"results": []}'),
        status(200, b'{"results": [{"ok": true, "reward": NaN}]}'),
        status(200, b'{"results": [{"ok": true, "reward": 1e999}]}'),
        status(200, b'{"results": [{"ok": true, "reward": null}]}'),
        status(200, b'{"results": [{"ok": true}]}'),
        status(200, b'{"results": [{"ok": false}]}'),
        status(200, b'{"results": [7]}'),
        status(200, b"[" * 100_000),
        status(503, b"[" * 100_000),
        status(503, b"[]"),
    ],
)
def test_two_failures_are_retried(failing: Answer) -> None:
    with flaky(failing, failing, good) as server:
        (given,) = client(server.url).score(rows("three"))
    assert given.reward == 5.0
    assert len(server.bodies) == 3


@pytest.mark.parametrize("code", [301, 302, 307, 400, 403, 405, 415, 422, 501])
def test_other_answers_are_not_retried(code: int) -> None:
    with flaky(status(code, Location="http://127.0.0.1:1/")) as server:
        with pytest.raises(RefusedError, match="as scripted"):
            client(server.url).score(rows("x"))
        assert len(server.bodies) == 1


def test_retry_after_is_honoured() -> None:
    with flaky(status(429, Retry_After="0.5"), good) as server:
        started = time.monotonic()
        (given,) = client(server.url).score(rows("x"))
        assert 0.5 <= time.monotonic() - started < 1.5
    assert given.reward == 1.0


def test_a_retry_after_beyond_the_deadline_ends_the_call_at_once() -> None:
    with flaky(status(503, Retry_After="60")) as server:
        started = time.monotonic()
        (given,) = client(server.url).score(rows("x"))
        assert time.monotonic() - started < 2
    assert len(server.bodies) == 1
    assert given.failure is not None
    assert (given.failure.code, given.failure.outage) == ("server_unavailable", True)
    assert "answered 503: as scripted" in given.failure.message


def test_only_the_rows_that_may_be_retried_are_asked_again() -> None:
    failed = {"ok": False, "reward": 0.0, "error": {"code": "judge_unavailable", "message": "m"}}
    later = {"ok": False, "error": {**failed["error"], "retryable": True, "retry_after_s": 0.1}}  # type: ignore[dict-item]
    right = {"ok": True, "reward": 0.5, "passed": False, "sub_rewards": {"a": 1}}
    started = time.monotonic()
    with flaky(results(right, later, failed), good) as server:
        first, second, third = client(server.url).score(rows("x", "four", "z"))
    assert time.monotonic() - started > 0.1
    assert (first.reward, first.sub_rewards) == (0.5, {"a": 1.0})
    assert second.reward == 4.0
    assert third.failure is not None
    assert third.failure.outage
    assert [len(body["rows"]) for body in server.bodies] == [3, 1]


def test_the_deadline_bounds_a_server_that_never_answers() -> None:
    with flaky(after(30)) as server:
        started = time.monotonic()
        given = client(server.url, deadline_s=0.3).score(rows("x", "y"))
        assert time.monotonic() - started < 1.5
    assert [result.failure is not None and result.failure.outage for result in given] == [True] * 2


def test_the_deadline_bounds_a_server_that_drips() -> None:
    def drip(handler: Any) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        for _ in range(100):
            handler.wfile.write(b" ")
            handler.wfile.flush()
            time.sleep(0.05)

    with flaky(drip) as server:
        started = time.monotonic()
        (given,) = client(server.url, deadline_s=0.3).score(rows("x"))
        assert time.monotonic() - started < 1.5
    assert given.failure is not None
    assert given.failure.outage


def test_the_deadline_bounds_retries_and_nobody_listening() -> None:
    with flaky(good) as server:
        gone = server.url
    started = time.monotonic()
    (given,) = client(gone, deadline_s=0.5).score(rows("x"))
    assert time.monotonic() - started < 1.5
    assert given.failure is not None
    assert given.failure.message == f"no answer from {gone}: ConnectionRefusedError"


def test_an_endless_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.trainers.client._MAX_ANSWER_BYTES", 1000)
    with flaky(status(200, b"x" * 10_000), good) as server:
        (given,) = client(server.url).score(rows("x"))
    assert given.reward == 1.0
    assert server.connections == 2


def test_one_connection_serves_one_thread_after_another() -> None:
    with flaky(good) as server:
        asked = client(server.url)
        for _ in range(20):
            asked.score(rows("x"))
        threads = [threading.Thread(target=asked.score, args=(rows("y"),)) for _ in range(5)]
        for thread in threads:
            thread.start()
            thread.join()
    assert server.connections == 1
    assert len(server.bodies) == 25


def test_a_connection_that_died_idle_is_replaced_without_a_pause(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("service.trainers.client._FIRST_PAUSE_S", 30)
    with flaky(good_then_close) as server:
        asked = client(server.url)
        for _ in range(4):
            assert asked.score(rows("x"))[0].reward == 1.0
            time.sleep(0.02)
    assert len(server.bodies) == 4
    assert server.connections == 4


def test_a_connection_the_server_closes_openly_is_not_kept() -> None:
    with flaky(status(200, b'{"results":[{"ok":true,"reward":1}]}', Connection="close")) as server:
        asked = client(server.url)
        assert [asked.score(rows("x"))[0].reward for _ in range(3)] == [1, 1, 1]
    assert server.connections == 3


def test_batches_of_one_call_go_out_together_and_bounded() -> None:
    with flaky(after(0.2)) as server:
        started = time.monotonic()
        given = client(server.url, batch_rows=2, connections=4).score(
            rows(*("x" * n for n in range(16)))
        )
        assert time.monotonic() - started < 1.4  # one after another they take 1.6
    assert [result.reward for result in given] == list(range(16))
    assert 1 < server.most <= 5  # the server counts one as under way until after its answer
    assert server.connections <= 4


def test_large_rows_are_batched_by_their_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.trainers.client._MAX_BATCH_BYTES", 1000)
    with flaky(good) as server:
        given = client(server.url, connections=1).score(rows("x" * 2000, "y" * 400, "z" * 400, "a"))
    assert [result.reward for result in given] == [2000, 400, 400, 1]
    assert [len(body["rows"]) for body in server.bodies] == [1, 3]


def test_a_refused_batch_ends_the_whole_call() -> None:
    with flaky(status(403)) as server, pytest.raises(RefusedError):
        client(server.url, batch_rows=1, connections=2).score(rows("x", "y", "z"))


def test_threads_share_a_client(url: str) -> None:
    asked = client(url, key=KEY)
    with ThreadPoolExecutor(8) as threads:
        given = list(
            threads.map(lambda n: asked.score(rows(str(n % 3), answer="0"))[0].reward, range(200))
        )
    assert given == [float(n % 3 == 0) for n in range(200)]


def test_asyncio_tasks_share_a_client(url: str) -> None:
    asked = client(url, key=KEY, batch_rows=3)

    async def main() -> list[list[float | None]]:
        calls = (asked.score_async(rows(str(n), "0", "1", "2", answer="0")) for n in range(50))
        return [[one.reward for one in given] for given in await asyncio.gather(*calls)]

    for _ in range(2):  # a second event loop finds the client in order
        assert asyncio.run(main()) == [[float(n == 0), 1.0, 0.0, 0.0] for n in range(50)]


async def test_the_event_loop_stays_free_while_a_server_is_slow() -> None:
    with flaky(after(0.4)) as server:
        task = asyncio.create_task(client(server.url).score_async(rows("x")))
        longest = 0.0
        while not task.done():
            began = time.monotonic()
            await asyncio.sleep(0.01)
            longest = max(longest, time.monotonic() - began)
        assert (await task)[0].reward == 1.0
    assert longest < 0.35


async def test_a_cancelled_call_frees_its_thread_and_connection() -> None:
    with flaky(after(5), good) as server:
        asked = client(server.url, connections=1, deadline_s=20)
        task = asyncio.create_task(asked.score_async(rows("x")))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        started = time.monotonic()
        assert (await asked.score_async(rows("xy")))[0].reward == 2.0
        assert time.monotonic() - started < 2


async def test_a_cancelled_call_stops_its_retries() -> None:
    with flaky(status(503)) as server:
        task = asyncio.create_task(client(server.url).score_async(rows("x")))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0.05)
        asked = len(server.bodies)
        await asyncio.sleep(0.3)
        assert len(server.bodies) == asked


def test_authorities_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="ca_file cannot be used"):
        client("https://127.0.0.1:1", ca_file=str(tmp_path / "none.pem"))


@pytest.mark.skipif(shutil.which("openssl") is None, reason="nothing makes a certificate here")
def test_https_needs_a_certificate_that_is_trusted(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subject = ["-subj", "/CN=grader", "-addext", "subjectAltName=IP:127.0.0.1"]
    made = ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject, *made],
        check=True,
        capture_output=True,
    )
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    with flaky(good) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        url = server.url.replace("http", "https")
        with pytest.raises(RefusedError, match="self-signed certificate"):
            client(url).score(rows("x"))
        trusting = client(url, ca_file=str(certificate))
        assert [trusting.score(rows("x"))[0].reward for _ in range(3)] == [1.0] * 3
    assert server.connections == 1


def test_an_answer_cut_off_is_retried() -> None:
    def cut(handler: Any) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        handler.wfile.write(b'{"results": []}')
        hang_up(handler)

    with flaky(cut, good) as server:
        assert client(server.url).score(rows("x"))[0].reward == 1.0
    assert len(server.bodies) == 2
