"""A real gradekeeper server, and one that plays a script of failures."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

KEY = "gk-test"
ROOT = Path(__file__).parents[2]

_TEXT = "{{sample.output_text}}"
_ANSWER = "{{item.answer}}"


def check(reference: str = _ANSWER, given: str = _TEXT, operation: str = "eq") -> dict[str, Any]:
    return {"type": "string_check", "operation": operation, "input": given, "reference": reference}


DEFINITIONS: dict[str, dict[str, Any]] = {
    "capital": check(),
    "prompted": check("{{item.prompt}}", operation="like", given="{{item.prompt}} {{item.answer}}"),
    "needs-json": check(given="{{sample.output_json.answer}}"),
    "tools": check(given="{{sample.output_tools[0].function.name}}"),
    "truth": check("{{item.ground_truth}}"),
    "parts": {
        "type": "multi",
        "graders": {"exact": check(), "part": check(operation="like")},
        "calculate_output": "0.75 * exact + 0.25 * part",
    },
    "judged": {
        "type": "score_model",
        "model": "gpt-5-mini",
        "input": [{"role": "user", "content": "Rate {{sample.output_text}}"}],
    },
}


def definition(name: str) -> dict[str, Any]:
    return {"name": name, **DEFINITIONS[name]}


@contextmanager
def gradekeeper(folder: Path) -> Iterator[str]:
    """Serve `DEFINITIONS` from a process of its own; give its URL."""
    for name in DEFINITIONS:
        (folder / name).mkdir()
        (folder / name / "1.json").write_text(json.dumps(definition(name)))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "GRADEKEEPER_API_KEY": KEY,
        "GRADEKEEPER_DEFINITIONS": str(folder),
        "GRADEKEEPER_LOG_LEVEL": "error",
        "GRADEKEEPER_SANDBOX": "off",
        "GRADEKEEPER_MAX_BATCH_ROWS": "100",
    }
    command = [sys.executable, "-m", "uvicorn", "service.app:app_from_environment", "--factory"]
    process = subprocess.Popen(
        [*command, "--port", str(port), "--log-level", "error"], env=environment
    )
    try:
        _wait_until_healthy(port, process)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


def _wait_until_healthy(port: int, process: subprocess.Popen[bytes]) -> None:
    ends = time.monotonic() + 20
    while process.poll() is None and time.monotonic() < ends:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        try:
            connection.request("GET", "/healthz")
            if connection.getresponse().status == 200:
                return
        except OSError:
            time.sleep(0.05)
        finally:
            connection.close()
    raise RuntimeError("the server did not start")


Answer = Callable[["Handler"], None]


class Flaky(ThreadingHTTPServer):
    """Answers every request with the next entry of its script; the last one stays."""

    daemon_threads = True

    def __init__(self, *script: Answer) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script = list(script)
        self.lock = threading.Lock()
        self.connections = 0
        self.bodies: list[Any] = []
        self.headers: list[dict[str, str]] = []
        self.under_way = 0
        self.most = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def process_request(self, request: Any, client_address: Any) -> None:
        self.connections += 1
        super().process_request(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are part of the tests."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Flaky

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with self.server.lock:
            self.server.bodies.append(json.loads(body))
            self.server.headers.append(dict(self.headers))
            script = self.server.script
            answer = script.pop(0) if len(script) > 1 else script[0]
            self.server.under_way += 1
            self.server.most = max(self.server.most, self.server.under_way)
        try:
            self.rows = json.loads(body)["rows"]
            answer(self)
        finally:
            with self.server.lock:
                self.server.under_way -= 1

    def send(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Be quiet."""


def status(code: int, body: bytes = b'{"detail": "as scripted"}', **headers: str) -> Answer:
    return lambda handler: handler.send(code, body, **headers)


def good(handler: Handler) -> None:
    """Answer with the length of each row's text as its reward."""
    results = [
        {"reward": float(len(row["model_sample"])), "ok": True, "passed": True}
        for row in handler.rows
    ]
    handler.send(200, json.dumps({"results": results}).encode())


def after(seconds: float, answer: Answer = good) -> Answer:
    def handle(handler: Handler) -> None:
        time.sleep(seconds)
        answer(handler)

    return handle


def results(*entries: dict[str, Any]) -> Answer:
    return status(200, json.dumps({"results": list(entries)}).encode())


def hang_up(handler: Handler) -> None:
    """Close the connection without an answer."""
    handler.close_connection = True
    handler.connection.shutdown(socket.SHUT_RDWR)


def good_then_close(handler: Handler) -> None:
    """Answer, then close the kept-alive connection without saying so."""
    good(handler)
    handler.wfile.flush()
    handler.close_connection = True


@contextmanager
def flaky(*script: Answer) -> Iterator[Flaky]:
    server = Flaky(*script)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
