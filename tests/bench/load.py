"""Keeps connections to a server busy from another core, and says what a request cost the server.

Uses ``wrk`` when it is installed (Debian and Ubuntu: ``apt-get install wrk``), else a small
generator of our own: it goes round the connections, takes an answer and sends the next request.
That needs two system calls a request and keeps a raw ASGI server busy as well, so the ratios agree.
"""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence

import msgspec

from tests.bench.servers import Server

_CONTENT_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
_MAX_CHUNK_BYTES = 1024 * 1024
_WARM_UP_S = 1.0
_RUN_S = 2.0


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One POST, sent over and over.

    Attributes:
        others: Further bodies: each connection sends its own, as far as they go.
    """

    path: str
    body: bytes
    others: Sequence[bytes] = ()
    headers: Mapping[str, str] = {}


def generator() -> str:
    """Return the name of what makes the load."""
    return "wrk" if shutil.which("wrk") else "our own generator (apt-get install wrk for wrk)"


def cpu_us(server: Server, request: Request, *, connections: int, seconds: float) -> float:
    """Return the CPU microseconds that ``server`` spent on each request, under full load.

    Raises:
        RuntimeError: An answer had another status than 200.
    """
    send = _wrk if shutil.which("wrk") and not request.others else _own
    before = server.cpu_s()
    answered = send(server.port, request, connections, seconds)
    return (server.cpu_s() - before) / answered * 1e6


def interleaved(
    targets: Sequence[tuple[Server, Request]], *, rounds: int, connections: int
) -> list[list[float]]:
    """Return `cpu_us` of every target, one value a round; the targets take turns in every round."""
    costs: list[list[float]] = [[] for _ in targets]
    for server, request in targets:
        cpu_us(server, request, connections=connections, seconds=_WARM_UP_S)
    for _ in range(rounds):
        for (server, request), values in zip(targets, costs, strict=True):
            values.append(cpu_us(server, request, connections=connections, seconds=_RUN_S))
    return costs


def _wrk(port: int, request: Request, connections: int, seconds: float) -> int:
    """Return the number of requests that wrk got answered."""
    script = 'local f = io.open("{}", "rb") wrk.body = f:read("*a") f:close() wrk.method = "POST"\n'
    with tempfile.NamedTemporaryFile() as body, tempfile.NamedTemporaryFile(suffix=".lua") as lua:
        body.write(request.body)
        body.flush()
        headers = {"Content-Type": "application/json", **request.headers}
        lines = [f"wrk.headers[{json.dumps(k)}] = {json.dumps(v)}\n" for k, v in headers.items()]
        lua.write((script.format(body.name) + "".join(lines)).encode())
        lua.flush()
        command = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s"]
        url = f"http://127.0.0.1:{port}{request.path}"
        done = subprocess.run(
            [*command, "-s", lua.name, url], capture_output=True, check=True, text=True
        )
    if "Non-2xx" in done.stdout or "Socket errors" in done.stdout:
        raise RuntimeError(f"{request.path}: {done.stdout}")
    answered = re.search(r"(\d+) requests in", done.stdout)
    if answered is None:
        raise RuntimeError(f"cannot read what wrk says: {done.stdout}")
    return int(answered[1])


def _own(port: int, request: Request, connections: int, seconds: float) -> int:
    """Return the number of requests that were answered."""
    bodies = (request.body, *request.others)
    messages = [
        encoded(msgspec.structs.replace(request, body=bodies[number % len(bodies)]))
        for number in range(connections)
    ]
    answered = 0
    sockets = [socket.create_connection(("127.0.0.1", port)) for _ in range(connections)]
    try:
        for connection, message in zip(sockets, messages, strict=True):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.sendall(message)
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            for connection, message in zip(sockets, messages, strict=True):
                read_answer(connection)
                connection.sendall(message)
            answered += connections
        for connection in sockets:
            read_answer(connection)
        return answered + connections
    finally:
        for connection in sockets:
            connection.close()


def encoded(request: Request) -> bytes:
    """Return ``request`` as it travels."""
    headers = {
        "Host": "127.0.0.1",
        "Content-Type": "application/json",
        "Content-Length": str(len(request.body)),
        **request.headers,
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"POST {request.path} HTTP/1.1\r\n{lines}\r\n".encode() + request.body


def read_answer(connection: socket.socket) -> bytes:
    """Return the next answer on ``connection``, head and body.

    Raises:
        RuntimeError: Its status is not 200, or the connection ended.
    """
    answer = _more(connection)
    while (head := answer.find(b"\r\n\r\n")) < 0:
        answer += _more(connection)
    length = _CONTENT_LENGTH.search(answer, 0, head + 2)
    if length is None or not answer.startswith(b"HTTP/1.1 200 "):
        raise RuntimeError(f"unexpected answer: {answer[:500]!r}")
    size = head + 4 + int(length[1])
    if len(answer) >= size:
        return answer
    parts, missing = [answer], size - len(answer)
    while missing > 0:
        parts.append(_more(connection))
        missing -= len(parts[-1])
    return b"".join(parts)


def _more(connection: socket.socket) -> bytes:
    data = connection.recv(_MAX_CHUNK_BYTES)
    if not data:
        raise RuntimeError("the server closed the connection")
    return data
