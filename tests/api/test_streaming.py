"""Batches as NDJSON: over a real connection where the connection matters, else by what is sent."""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from graders.errors import JudgeUnavailableError
from graders.ports import JudgeCall, JudgeReply, Ports
from service import streaming
from service.app import create_app
from service.lean import ClientGoneError
from service.streaming import Lines, Outbox
from tests.api.world import (
    Live,
    calling,
    lines,
    metric,
    read_lines,
    rows,
    serving,
    settings,
    shrink,
    wait_until,
)
from tests.fakes import FakeJudge, prompt, verdict

NDJSON = {"content-type": "application/x-ndjson"}
EXACT_URL = "/v1/graders/exact/versions/1/score/batch"
JUDGED_URL = "/v1/graders/judged/versions/1/score/batch"
GOOD = {"item": {"answer": "yes"}, "model_sample": "yes"}
GOOD_LINE = json.dumps(GOOD).encode()


class TestHappy:
    async def test_every_row_comes_back_with_its_index_and_the_end_comes_last(
        self, api: httpx.AsyncClient
    ) -> None:
        response = await api.post(EXACT_URL, content=lines(rows(1_000)), headers=NDJSON)
        assert response.status_code == 200
        assert response.headers["content-type"] == "application/x-ndjson"
        *results, end = read_lines(response.content)
        assert [row["index"] for row in results] == list(range(1_000))
        assert [row["reward"] for row in results] == [float(n % 3 == 0) for n in range(1_000)]
        assert end["summary"] == {
            "rows": 1_000,
            "ok": 1_000,
            "failed": 0,
            "passed": 334,
            "mean_reward": 334 / 1_000,
        }
        assert end["grader"] == "exact"
        assert end["version"] == 1
        assert end["signature"] == f"exact@1|{end['digest']}|engine:1|render:json"

    async def test_no_rows_are_an_end_alone(self, api: httpx.AsyncClient) -> None:
        for url, body in itertools.product((EXACT_URL, JUDGED_URL), (b"", b"\n", b"\n \n\r\n")):
            answer = read_lines((await api.post(url, content=body, headers=NDJSON)).content)
            assert [set(line) >= {"summary"} for line in answer] == [True]
            assert answer[0]["summary"]["mean_reward"] is None

    async def test_asked_rows_leave_as_they_complete(self, definitions: Path) -> None:
        async def later_first(call: JudgeCall) -> JudgeReply:
            number = int(prompt(call).split()[1])
            await asyncio.sleep((10 - number) / 200)
            return verdict(number / 10)

        app = create_app(settings(definitions), ports=Ports(judge=FakeJudge(later_first)))
        sent = [{"item": {"question": "?"}, "model_sample": str(n)} for n in range(10)]
        async with calling(app) as client:
            response = await client.post(JUDGED_URL, content=lines(sent), headers=NDJSON)
        *results, end = read_lines(response.content)
        assert [row["index"] for row in results] == list(range(9, -1, -1))
        assert all(row["reward"] == row["index"] / 10 for row in results)
        assert end["summary"]["rows"] == 10

    async def test_a_json_batch_is_streamed_to_who_accepts_that(
        self, api: httpx.AsyncClient
    ) -> None:
        body = {"rows": rows(1_500)}
        wanted = {"accept": "application/x-ndjson"}
        response = await api.post(EXACT_URL, json=body, headers=wanted)
        assert response.headers["content-type"] == "application/x-ndjson"
        *results, end = read_lines(response.content)
        assert [row["index"] for row in results] == list(range(1_500))
        plain = (await api.post(EXACT_URL, json=body)).json()
        assert [row["reward"] for row in results] == [row["reward"] for row in plain["results"]]
        assert end["summary"] == plain["summary"]

    @pytest.mark.parametrize(
        ("accept", "kind"),
        [
            ("*/*", "application/json"),
            ("application/json, application/x-ndjson", "application/json"),
            ("application/json;q=0.5, application/x-ndjson", "application/x-ndjson"),
            ("text/html", "application/json"),
        ],
    )
    async def test_json_is_answered_where_nothing_else_is_preferred(
        self, api: httpx.AsyncClient, accept: str, kind: str
    ) -> None:
        response = await api.post(EXACT_URL, json={"rows": [GOOD]}, headers={"accept": accept})
        assert response.headers["content-type"] == kind

    async def test_asked_rows_of_a_json_batch_leave_as_they_complete(
        self, definitions: Path
    ) -> None:
        async def later_first(call: JudgeCall) -> JudgeReply:
            number = int(prompt(call).split()[1])
            await asyncio.sleep((10 - number) / 200)
            return verdict(number / 10)

        app = create_app(settings(definitions), ports=Ports(judge=FakeJudge(later_first)))
        sent = [{"item": {"question": "?"}, "model_sample": str(n)} for n in range(10)]
        async with calling(app) as client:
            response = await client.post(
                JUDGED_URL, json={"rows": sent}, headers={"accept": "application/x-ndjson"}
            )
        *results, end = read_lines(response.content)
        assert [row["index"] for row in results] == list(range(9, -1, -1))
        assert end["summary"]["ok"] == 10

    async def test_a_streamed_json_batch_refuses_groups_and_bad_rows_before_it_starts(
        self, api: httpx.AsyncClient
    ) -> None:
        wanted = {"accept": "application/x-ndjson"}
        for row, words in ((GOOD | {"group": "a"}, "no groups"), ({"item": {}}, "missing")):
            response = await api.post(EXACT_URL, json={"rows": [row]}, headers=wanted)
            assert response.status_code == 400
            assert words in response.text

    @pytest.mark.parametrize(
        "kind", ["application/x-ndjson; charset=utf-8", "Application/X-NDJSON"]
    )
    async def test_the_content_type_may_be_spelled_its_ways(
        self, api: httpx.AsyncClient, kind: str
    ) -> None:
        response = await api.post(EXACT_URL, content=GOOD_LINE, headers={"content-type": kind})
        assert len(read_lines(response.content)) == 2

    async def test_diagnostics_come_with_debug(self, api: httpx.AsyncClient) -> None:
        url = "/v1/graders/coded/versions/1/score/batch?debug=true"
        response = await api.post(url, content=GOOD_LINE, headers=NDJSON)
        row, _ = read_lines(response.content)
        assert row["diagnostics"][""]["stdout"] == "hello from the grader"


class TestRows:
    @pytest.mark.parametrize(
        ("line", "message"),
        [
            pytest.param(GOOD_LINE[:-5], "truncated", id="torn"),
            pytest.param(b'{"model_sample": "\xff"}', "'utf-8' codec can't decode", id="not UTF-8"),
            pytest.param(b'{"model_sample": 3}', "Expected `str", id="wrong type"),
            pytest.param(b'{"model": "x"}', "unknown field `model`", id="unknown field"),
            pytest.param(b"[]", "Expected `object`", id="array"),
            pytest.param(b'{"sample": ' + b"[" * 5_000, "Expected `object", id="deep array"),
            pytest.param(b'{"sample": {"choices": ' + b"[" * 5_000, "nested too deeply", id="deep"),
            pytest.param(b'{"item": {}}', "model_sample (a string) or sample", id="no sample"),
            pytest.param(b'{"sample": {"output_text": 1}}', "sample.output_text", id="bad sample"),
            pytest.param(b'{"model_sample": "\\ud800"}', "truncated", id="lone surrogate"),
            pytest.param(b'{"item": {"answer": NaN}}', "malformed", id="NaN"),
        ],
    )
    @pytest.mark.parametrize("url", [EXACT_URL, JUDGED_URL], ids=["pure", "asked"])
    async def test_an_unreadable_one_is_typed_and_the_others_are_graded(
        self, api: httpx.AsyncClient, url: str, line: bytes, message: str
    ) -> None:
        good = json.dumps({"item": {"answer": "a", "question": "?"}, "model_sample": "a"}).encode()
        body = b"\n".join([good, line, good])
        response = await api.post(url, content=body, headers=NDJSON)
        *results, end = read_lines(response.content)
        by_index = {row["index"]: row for row in results}
        assert [by_index[index]["ok"] for index in range(3)] == [True, False, True]
        assert by_index[1]["error"]["code"] == "invalid_row"
        assert message in by_index[1]["error"]["message"]
        assert end["summary"]["rows"] == 3
        assert end["summary"]["failed"] == 1

    @pytest.mark.parametrize("end", [b"\n", b"\r\n"], ids=["LF", "CRLF"])
    async def test_two_on_one_line_and_one_on_two_lines_give_nobody_the_reward_of_another(
        self, api: httpx.AsyncClient, end: bytes
    ) -> None:
        wrong = json.dumps({"item": {"answer": "yes"}, "model_sample": "no"}).encode()
        first, second = b'{"item": {"answer": "yes"},', b'"model_sample": "yes"}'
        body = end.join([*[GOOD_LINE] * 3, GOOD_LINE + b" " + wrong, first, second, GOOD_LINE])
        response = await api.post(EXACT_URL, content=body, headers=NDJSON)
        *results, _ = read_lines(response.content)
        assert [row["ok"] for row in results] == [True] * 3 + [False] * 3 + [True]

    async def test_blank_lines_do_not_count(self, api: httpx.AsyncClient) -> None:
        body = b"\n\n" + GOOD_LINE + b"\n  \n\r\n" + GOOD_LINE + b"\r\n\n"
        *results, end = read_lines(
            (await api.post(EXACT_URL, content=body, headers=NDJSON)).content
        )
        assert [row["index"] for row in results] == [0, 1]
        assert end["summary"]["ok"] == 2

    async def test_a_torn_last_line_fails_alone(self, api: httpx.AsyncClient) -> None:
        body = GOOD_LINE + b"\n" + GOOD_LINE[:-9]
        *results, end = read_lines(
            (await api.post(EXACT_URL, content=body, headers=NDJSON)).content
        )
        assert [row["ok"] for row in results] == [True, False]
        assert end["summary"]["failed"] == 1

    async def test_the_end_of_line_may_be_missing(self, api: httpx.AsyncClient) -> None:
        for body in (GOOD_LINE, GOOD_LINE + b"\n"):
            answer = await api.post(EXACT_URL, content=body, headers=NDJSON)
            assert len(read_lines(answer.content)) == 2

    @pytest.mark.parametrize("chunk", [1, 7, 1000, 100_000])
    async def test_an_overlong_one_fails_alone_however_it_arrives(
        self, definitions: Path, chunk: int
    ) -> None:
        app = create_app(settings(definitions, max_line_bytes=1024))
        longer = json.dumps({**GOOD, "model_sample": "x" * 3_000}).encode()
        body = b"\n".join([GOOD_LINE, longer, GOOD_LINE, longer, GOOD_LINE, GOOD_LINE])

        async def parts() -> AsyncIterator[bytes]:
            for start in range(0, len(body), chunk):
                yield body[start : start + chunk]

        async with calling(app) as client:
            response = await client.post(EXACT_URL, content=parts(), headers=NDJSON)
        *results, end = read_lines(response.content)
        assert [row["ok"] for row in results] == [True, False, True, False, True, True]
        assert results[1]["error"]["message"] == "the line is longer than 1024 bytes"
        assert end["summary"]["rows"] == 6

    async def test_an_overlong_last_line_fails_alone(self, definitions: Path) -> None:
        app = create_app(settings(definitions, max_line_bytes=1024))
        async with calling(app) as client:
            body = GOOD_LINE + b"\n" + b"x" * 5_000
            response = await client.post(EXACT_URL, content=body, headers=NDJSON)
        *results, _ = read_lines(response.content)
        assert [row["ok"] for row in results] == [True, False]

    async def test_a_row_that_cannot_be_asked_is_retryable_and_alone(
        self, definitions: Path
    ) -> None:
        judge = FakeJudge(
            lambda call: JudgeUnavailableError("down") if "bad" in prompt(call) else verdict(1)
        )
        app = create_app(settings(definitions), ports=Ports(judge=judge))
        sent = [{"item": {"question": "?"}, "model_sample": text} for text in ("a", "bad", "b")]
        async with calling(app) as client:
            response = await client.post(JUDGED_URL, content=lines(sent), headers=NDJSON)
        *results, end = read_lines(response.content)
        failed = [row for row in results if not row["ok"]]
        assert [row["index"] for row in failed] == [1]
        assert failed[0]["error"]["retryable"] is True
        assert (end["summary"]["ok"], end["summary"]["failed"]) == (2, 1)

    async def test_the_end_is_missing_when_the_service_fails(self, definitions: Path) -> None:
        judge = FakeJudge(lambda _: 1 / 0)  # type: ignore[arg-type,return-value]
        body = lines([{"item": {"question": "?"}, "model_sample": "x"}])
        with serving(settings(definitions), Ports(judge=judge)) as live:
            with connected(live.port, JUDGED_URL, length=len(body)) as client:
                client.sendall(body)
                with pytest.raises(ValueError, match="invalid literal"):
                    read_body(client)
            assert is_alive(live)


class TestConnections:
    @pytest.mark.parametrize("url", [EXACT_URL, JUDGED_URL], ids=["pure", "asked"])
    def test_results_come_while_the_request_is_still_being_sent(self, live: Live, url: str) -> None:
        row = json.dumps({"item": {"answer": "a", "question": "?"}, "model_sample": "a"}).encode()
        with connected(live.port, url) as client, client.makefile("rb") as answer:
            for index in range(3):
                client.sendall(b"%x\r\n%s\n\r\n" % (len(row) + 1, row))
                while not (line := answer.readline()).startswith(b"{"):
                    pass
                assert json.loads(line)["index"] == index
            client.sendall(b"0\r\n\r\n")
            while not (line := answer.readline()).startswith(b"{"):
                pass
            assert json.loads(line)["summary"]["rows"] == 3

    @pytest.mark.parametrize("url", [EXACT_URL, JUDGED_URL], ids=["pure", "asked"])
    def test_a_client_that_sends_everything_before_it_reads_is_served(
        self, definitions: Path, url: str
    ) -> None:
        number = 100_000 if url == EXACT_URL else 5_000
        row = {"item": {"answer": "yes", "question": "?"}, "model_sample": "yes"}
        body = lines([row]) * number
        judge = FakeJudge(lambda _: verdict(1))
        with (
            serving(settings(definitions), Ports(judge=judge)) as live,
            connected(live.port, url, length=len(body)) as client,
        ):
            client.sendall(body)
            answer = read_body(client)
        *results, end = answer.splitlines()
        assert len(results) == number
        assert json.loads(end)["summary"]["passed"] == number

    def test_a_slow_reader_gets_everything_and_holds_up_the_grading(
        self, definitions: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """With little room for results, grading stops until somebody reads."""
        monkeypatch.setattr(streaming, "_MAX_WAITING_BYTES", 4096)
        number = 40_000
        with (
            serving(settings(definitions), socket_bytes=4096) as live,
            connected(live.port, EXACT_URL, socket_bytes=4096) as client,
        ):
            sending = threading.Thread(target=send_chunks, args=(client, GOOD_LINE + b"\n", number))
            sending.start()
            time.sleep(0.3)
            assert in_flight(live) == 1
            assert sending.is_alive()
            answer = read_body(client)
            sending.join(10)
        assert len(answer.splitlines()) == number + 1
        assert json.loads(answer.splitlines()[-1])["summary"]["ok"] == number

    @pytest.mark.parametrize("complete", [True, False], ids=["after sending", "while sending"])
    def test_leaving_cancels_what_is_asked(self, definitions: Path, complete: bool) -> None:
        async def never(_: JudgeCall) -> JudgeReply:
            await asyncio.sleep(60)
            raise AssertionError("nobody waits that long")

        judge = FakeJudge(never)
        body = lines([{"item": {"question": "?"}, "model_sample": "x"}]) * 5
        with serving(settings(definitions), Ports(judge=judge)) as live:
            length = len(body) + (0 if complete else 10_000)
            with connected(live.port, JUDGED_URL, length=length) as client:
                client.sendall(body)
                wait_until(lambda: judge.under_way == 5)
            wait_until(lambda: judge.under_way == 0)
            assert judge.cancelled == 5
            answer = httpx.post(live.url + EXACT_URL, content=GOOD_LINE, headers=NDJSON)
            assert len(answer.content.splitlines()) == 2

    def test_leaving_a_streamed_json_batch_cancels_what_is_asked(self, definitions: Path) -> None:
        async def never(_: JudgeCall) -> JudgeReply:
            await asyncio.sleep(60)
            raise AssertionError("nobody waits that long")

        judge = FakeJudge(never)
        body = json.dumps({"rows": [{"item": {"question": "?"}, "model_sample": "x"}] * 5})
        with serving(settings(definitions), Ports(judge=judge)) as live:
            headers = "Content-Type: application/json\r\nAccept: application/x-ndjson"
            head = f"POST {JUDGED_URL} HTTP/1.1\r\nHost: x\r\n{headers}\r\n"
            with socket.create_connection(("127.0.0.1", live.port)) as client:
                client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
                wait_until(lambda: judge.under_way == 5)
            wait_until(lambda: judge.under_way == 0)
            assert judge.cancelled == 5

    def test_leaving_a_pure_stream_ends_it(self, definitions: Path) -> None:
        with serving(settings(definitions)) as live:
            with connected(live.port, EXACT_URL, length=10**9) as client:
                client.sendall((GOOD_LINE + b"\n") * 100)
                assert client.recv(10)
            wait_until(lambda: in_flight(live) == 0)
            assert is_alive(live)

    def test_leaving_with_the_answer_unread_ends_it(self, definitions: Path) -> None:
        with serving(settings(definitions)) as live:
            body = (GOOD_LINE + b"\n") * 60_000
            with connected(live.port, EXACT_URL, length=len(body), socket_bytes=4096) as client:
                client.sendall(body)
            wait_until(lambda: in_flight(live) == 0)

    def test_memory_stays_bounded_when_the_answer_is_read(self, live: Live) -> None:
        """Nothing of the request is kept: the outbox is all that may grow."""
        body = (GOOD_LINE + b"\n") * 1_000

        def sent() -> Iterator[bytes]:
            for _ in range(30):
                yield body

        with httpx.stream(
            "POST", live.url + EXACT_URL, content=sent(), headers=NDJSON, timeout=30
        ) as response:
            count = sum(1 for _ in response.iter_lines())
        assert count == 30_001


class TestLines:
    async def test_a_client_that_is_gone_ends_the_reading(self) -> None:
        messages = iter(
            [
                {"type": "http.request", "body": b"a\nb", "more_body": True},
                {"type": "http.disconnect"},
            ]
        )

        async def receive() -> Any:
            return next(messages)

        read = Lines(receive, 1024)
        portions = read.portions()
        assert await anext(portions) == [b"a"]
        with pytest.raises(ClientGoneError):
            await anext(portions)

    async def test_splits_what_follows_an_overlong_line(self) -> None:
        chunks = [b"x" * 10, b"y\na\nb\nc", b"d\n"]
        messages = [
            {"type": "http.request", "body": chunk, "more_body": chunk != chunks[-1]}
            for chunk in chunks
        ]
        waiting = iter(messages)

        async def receive() -> Any:
            return next(waiting)

        found = [line async for portion in Lines(receive, 4).portions() for line in portion]
        assert found == [b"xxxxx", b"a", b"b", b"cd"]


class TestOutbox:
    async def test_room_waits_until_less_is_unsent(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(streaming, "_MAX_WAITING_BYTES", 10)
        go, sent = asyncio.Event(), []

        async def send(message: Any) -> None:
            await go.wait()
            sent.append(message)

        outbox = Outbox(send)
        outbox.put(b"x" * 11)
        room = asyncio.ensure_future(outbox.room())
        await asyncio.sleep(0.01)
        assert not room.done()
        go.set()
        await asyncio.wait_for(room, 1)
        await outbox.close()
        assert [message["body"] for message in sent] == [b"x" * 11, b""]
        assert [message["more_body"] for message in sent] == [True, False]

    async def test_room_is_not_waited_for_once_sending_has_failed(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(streaming, "_MAX_WAITING_BYTES", 10)

        async def send(_: Any) -> None:
            await asyncio.sleep(0.01)
            raise OSError("broken pipe")

        outbox = Outbox(send)
        outbox.put(b"x" * 11)
        await asyncio.wait_for(outbox.room(), 1)
        with pytest.raises(OSError, match="broken pipe"):
            await outbox.close()


def connected_request(url: str, length: int | None) -> bytes:
    size = "transfer-encoding: chunked" if length is None else f"content-length: {length}"
    head = f"POST {url} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/x-ndjson\r\n"
    return f"{head}{size}\r\n\r\n".encode()


def connected(
    port: int, url: str, *, length: int | None = None, socket_bytes: int | None = None
) -> socket.socket:
    """Return a connection on which the head of a request was sent; chunked without ``length``."""
    client = socket.socket()
    shrink(client, socket_bytes)
    client.settimeout(30)
    client.connect(("127.0.0.1", port))
    client.sendall(connected_request(url, length))
    return client


def send_chunks(client: socket.socket, line: bytes, number: int) -> None:
    block = line * 1000
    for _ in range(number // 1000):
        client.sendall(b"%x\r\n%s\r\n" % (len(block), block))
    client.sendall(b"0\r\n\r\n")


def read_body(client: socket.socket) -> bytes:
    """Return the decoded body of a chunked answer."""
    with client.makefile("rb") as file:
        while file.readline().strip():
            pass
        parts = []
        while size := int(file.readline(), 16):
            parts.append(file.read(size))
            file.readline()
        return b"".join(parts)


def in_flight(live: Live) -> float:
    text = httpx.get(f"{live.url}/metrics").text
    return metric(text, "gradekeeper_requests_in_flight")


def is_alive(live: Live) -> bool:
    return httpx.get(f"{live.url}/healthz").status_code == 200
