"""What slow, silent and endless clients get: an end, and nobody else notices."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from graders.ports import JudgeCall, JudgeReply, Ports
from service.connections import MAX_HEAD_BYTES, MIN_BODY_BYTES_PER_S
from tests.api.world import Live, lines, rows, serving, settings

PATIENCE_S = 0.4
SCORE = "/v1/graders/exact/versions/1/score"
BATCH = SCORE + "/batch"
ROW = json.dumps({"item": {"answer": "yes"}, "model_sample": "yes"}).encode()


class SlowJudge:
    """Thinks for longer than anybody waits for a head."""

    async def judge(self, call: JudgeCall) -> JudgeReply:
        await asyncio.sleep(10 * PATIENCE_S)
        return JudgeReply(content='{"steps": [], "result": 1}', model=call.model, key="k")


@pytest.fixture(scope="module")
def service(definitions: Path) -> Iterator[Live]:
    chosen = settings(definitions, receive_timeout_s=PATIENCE_S)
    with serving(chosen, Ports(judge=SlowJudge())) as live:
        yield live


@pytest.fixture
def link(service: Live) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", service.port), timeout=10) as connection:
        yield connection


def head(path: str = SCORE, *, length: int = len(ROW), kind: str = "application/json") -> bytes:
    fields = f"host: x\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\n"
    return f"POST {path} HTTP/1.1\r\n{fields}\r\n".encode()


def everything(link: socket.socket) -> bytes:
    """Return what comes until the service closes the connection."""
    found = b""
    while part := link.recv(65536):
        found += part
    return found


def await_reward(link: socket.socket) -> None:
    """Read an answer, whose head may come ahead of its body."""
    found = b""
    while b'"reward":1.0' not in found:
        part = link.recv(65536)
        assert part, found
        found += part


def dribble(link: socket.socket, text: bytes, pause_s: float) -> bool:
    """Send byte by byte; return whether the connection closed meanwhile."""
    link.settimeout(0.001)
    for index in range(len(text)):
        try:
            link.sendall(text[index : index + 1])
            time.sleep(pause_s)
            if link.recv(65536):
                return True  # the last words
        except TimeoutError:
            continue
        except OSError:
            return True
    return False


class TestHeads:
    @pytest.mark.parametrize("begun", [b"P", b"POST / HTTP/1.1\r\n", head()[:-2]])
    def test_that_stop_halfway_are_408(self, link: socket.socket, begun: bytes) -> None:
        start = time.monotonic()
        link.sendall(begun)
        assert everything(link).startswith(b"HTTP/1.1 408 Request Timeout\r\n")
        assert time.monotonic() - start < PATIENCE_S + 1

    def test_that_come_byte_by_byte_are_given_up(self, link: socket.socket) -> None:
        start = time.monotonic()
        assert dribble(link, b"GET /" + b"x" * 1000, 0.02)
        assert time.monotonic() - start < PATIENCE_S + 1

    def test_that_stop_halfway_on_a_used_connection_are_408(self, link: socket.socket) -> None:
        link.sendall(head() + ROW)
        await_reward(link)
        link.sendall(head()[:10])
        assert everything(link).startswith(b"HTTP/1.1 408 ")

    @pytest.mark.parametrize(
        "flood",
        [
            pytest.param(b"GET /" + b"x" * MAX_HEAD_BYTES * 8, id="path"),
            pytest.param(b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * MAX_HEAD_BYTES, id="headers"),
            pytest.param(b"GET / HTTP/1.1\r\na: " + b"b" * MAX_HEAD_BYTES * 8, id="header"),
        ],
    )
    def test_without_an_end_are_431(self, link: socket.socket, flood: bytes) -> None:
        answer = flooded(link, flood)
        assert answer is None or answer.startswith(b"HTTP/1.1 431 Request Header Fields Too Large")

    def test_behind_a_request_at_work_say_nothing_in_its_place(self, service: Live) -> None:
        body = json.dumps({"item": {"question": "q"}, "model_sample": "x"}).encode()
        slow = head("/v1/graders/judged/versions/1/score", length=len(body)) + body
        with socket.create_connection(("127.0.0.1", service.port), timeout=10) as link:
            link.sendall(slow + head()[:20])
            assert everything(link) == b""


class TestBodies:
    def test_that_stop_halfway_are_408(self, link: socket.socket) -> None:
        link.sendall(head() + ROW[:10])
        assert everything(link).startswith(b"HTTP/1.1 408 Request Timeout\r\n")

    def test_that_never_begin_are_408(self, link: socket.socket) -> None:
        link.sendall(head())
        assert everything(link).startswith(b"HTTP/1.1 408 ")

    def test_that_come_byte_by_byte_are_given_up(self, link: socket.socket) -> None:
        link.sendall(head(length=10_000))
        assert dribble(link, b" " * 1000, 0.02)

    def test_that_stop_halfway_profit_from_no_earlier_one(self, link: socket.socket) -> None:
        body = ROW + b" " * int(MIN_BODY_BYTES_PER_S * PATIENCE_S)
        for _ in range(3):
            link.sendall(head(length=len(body)) + body)
            await_reward(link)
        start = time.monotonic()
        link.sendall(head() + ROW[:10])
        assert everything(link).startswith(b"HTTP/1.1 408 ")
        assert time.monotonic() - start < 1.9 * PATIENCE_S

    def test_that_get_on_are_waited_for(self, link: socket.socket) -> None:
        pad = b" " * int(MIN_BODY_BYTES_PER_S * PATIENCE_S)
        link.sendall(head(length=len(ROW) + 4 * len(pad)))
        for _ in range(4):
            link.sendall(pad)
            time.sleep(PATIENCE_S * 0.6)
        link.sendall(ROW)
        await_reward(link)

    def test_that_nobody_reads_any_more_are_given_up(self, link: socket.socket) -> None:
        link.sendall(head("/nowhere", length=100) + b"x")
        assert everything(link).startswith(b"HTTP/1.1 404 ")

    @pytest.mark.parametrize(
        "flood",
        [
            pytest.param(b"1;" + b"x" * MAX_HEAD_BYTES * 8, id="chunk extension"),
            pytest.param(b"1\r\n \r\n0\r\n" + b"a: b\r\n" * MAX_HEAD_BYTES, id="trailers"),
        ],
    )
    def test_with_endless_trimmings_are_refused(self, link: socket.socket, flood: bytes) -> None:
        start = f"POST {SCORE} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n".encode()
        answer = flooded(link, start + flood)
        assert answer is None or answer[:12] in {b"HTTP/1.1 431", b"HTTP/1.1 400"}

    def test_of_streams_may_pause(self, link: socket.socket) -> None:
        body = lines(rows(4))
        link.sendall(head(BATCH, length=len(body), kind="application/x-ndjson") + body[:50])
        time.sleep(PATIENCE_S * 2.5)
        link.sendall(body[50:])
        answer = b""
        while not answer.endswith(b"\r\n0\r\n\r\n"):
            answer += link.recv(65536)
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert answer.count(b'"reward"') == 4


def flooded(link: socket.socket, flood: bytes) -> bytes | None:
    """Send ``flood``; return the answer, None where the connection was reset before it came."""
    try:
        link.sendall(flood)
    except OSError:
        return None
    try:
        return everything(link)
    except ConnectionError:
        return None


class TestSilence:
    """Without a request, or with something else, a connection lives no longer than after one."""

    @pytest.fixture(scope="class")
    @classmethod
    def port(cls, definitions: Path) -> Iterator[int]:
        with serving(settings(definitions, keep_alive_s=1)) as live:
            yield live.port

    @pytest.mark.parametrize("noise", [b"", b"\r\n"], ids=["nothing", "noise"])
    @pytest.mark.parametrize("asked", [False, True], ids=["before", "after"])
    def test_ends(self, port: int, asked: bool, noise: bytes) -> None:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as link:
            if asked:
                link.sendall(head() + ROW)
                await_reward(link)
            link.sendall(noise)
            start = time.monotonic()
            assert everything(link) == b""
            assert 0.5 < time.monotonic() - start < 4
