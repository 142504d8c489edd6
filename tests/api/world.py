"""What tests of the HTTP service have in common: definitions, applications, servers, clients."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import msgspec
import uvicorn

from graders.ports import Ports
from service.app import create_app
from service.auth import Scope
from service.connections import bounded
from service.edge import Edge
from service.settings import Settings

TEXT = "{{sample.output_text}}"

EXACT = {
    "type": "string_check",
    "name": "exact",
    "operation": "eq",
    "input": TEXT,
    "reference": "{{item.answer}}",
}
ROUGE = {
    "type": "text_similarity",
    "name": "overlap",
    "evaluation_metric": "rouge_l",
    "input": TEXT,
    "reference": "{{item.answer}}",
    "pass_threshold": 0.75,
}
JUDGED = {
    "type": "score_model",
    "name": "judged",
    "model": "gpt-4o-2024-08-06",
    "input": [{"role": "user", "content": "Grade {{sample.output_text}} for {{item.question}}"}],
}
LABELLED = {
    "type": "label_model",
    "name": "labelled",
    "model": "gpt-4o-2024-08-06",
    "input": [{"role": "user", "content": "Label {{sample.output_text}}"}],
    "labels": ["good", "bad"],
    "passing_labels": ["good"],
}
CODED = {
    "type": "python",
    "name": "coded",
    "source": "def grade(sample, item):\n    return 1.0",
    "image_tag": "2025-05-08",
}
COSINE = {
    "type": "text_similarity",
    "name": "meaning",
    "evaluation_metric": "cosine",
    "input": TEXT,
    "reference": "{{item.answer}}",
}
REMOTE = {"type": "endpoint", "name": "remote", "url": "https://grader.example/score"}
PARTS = {
    "type": "multi",
    "name": "parts",
    "graders": {"same": EXACT, "near": {**ROUGE, "evaluation_metric": "fuzzy_match"}},
    "calculate_output": "0.5 * same + 0.5 * near",
}
MIXED = {
    "type": "multi",
    "name": "mixed",
    "graders": {"same": EXACT, "judged": JUDGED},
    "calculate_output": "(same + judged) / 2",
}
QUOTIENT = {
    "type": "multi",
    "name": "quotient",
    "graders": {"same": EXACT},
    "calculate_output": "1 / same",
}
OVERFLOW = {
    "type": "multi",
    "name": "overflow",
    "graders": {"same": EXACT},
    "calculate_output": "exp(same * 1e6) * 1e300",
}

DEFINITIONS: dict[str, list[dict[str, Any]]] = {
    "exact": [EXACT, {**EXACT, "operation": "ilike"}],
    "overlap": [ROUGE],
    "judged": [JUDGED],
    "labelled": [LABELLED],
    "coded": [CODED],
    "meaning": [COSINE],
    "remote": [REMOTE],
    "parts": [PARTS],
    "mixed": [MIXED],
    "quotient": [QUOTIENT],
    "overflow": [OVERFLOW],
}
PURE = ("exact", "overlap", "parts", "quotient", "overflow")


def write_definitions(
    directory: Path, definitions: dict[str, list[dict[str, Any]]] = DEFINITIONS
) -> Path:
    """Write ``definitions`` as a definitions directory; ``exact`` also gets labels and examples."""
    for name, versions in definitions.items():
        folder = directory / name
        folder.mkdir(parents=True, exist_ok=True)
        for number, document in enumerate(versions, start=1):
            (folder / f"{number}.json").write_text(json.dumps(document))
    if "exact" in definitions:
        folder = directory / "exact"
        (folder / "labels.json").write_text('{"stable": 1}')
        (folder / "README.md").write_text("# exact\n\nThe whole answer, letter for letter.\n")
        example = {"item": {"answer": "Paris"}, "model_sample": "Paris", "reward": 1.0}
        (folder / "examples.jsonl").write_text(json.dumps(example) + "\n")
    return directory


def settings(directory: Path, **changes: Any) -> Settings:
    """Return settings that serve only the definitions in ``directory``."""
    fields = {
        "definitions": str(directory),
        "bundled_definitions": False,
        "access_log": False,
        "sandbox": "off",
    }
    return Settings(**{**fields, **changes})


def key_entry(name: str, secret: str, scopes: Sequence[Scope]) -> dict[str, Any]:
    """Return an entry of a keys file."""
    digest = hashlib.sha256(secret.encode()).hexdigest()
    return {"name": name, "sha256": digest, "scopes": list(scopes)}


@contextlib.asynccontextmanager
async def calling(app: Any, **options: Any) -> AsyncIterator[httpx.AsyncClient]:
    """Give a client that calls ``app`` without a socket."""
    transport = httpx.ASGITransport(app=app, client=("127.0.0.1", 1234))
    async with httpx.AsyncClient(
        transport=transport, base_url="http://gradekeeper", **options
    ) as client:
        yield client


class Live:
    """The application behind a real server.

    Attributes:
        app: The application.
        url: Where it listens.
    """

    def __init__(self, app: Edge, url: str) -> None:
        self.app = app
        self.url = url

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])


@contextlib.contextmanager
def serving(
    app_settings: Settings, ports: Ports | None = None, *, socket_bytes: int | None = None
) -> Iterator[Live]:
    """Serve on a free port, from a thread, with the event loop and parser that ``serve`` uses.

    ``socket_bytes`` bounds what the kernel buffers, for tests of slow readers.
    """
    app = create_app(app_settings, ports=ports or Ports())
    listener = socket.create_server(("127.0.0.1", 0))
    shrink(listener, socket_bytes)
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http=bounded(app_settings.receive_timeout_s),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        timeout_keep_alive=app_settings.keep_alive_s,
        timeout_graceful_shutdown=5,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    wait_until(lambda: server.started)
    try:
        yield Live(app, f"http://127.0.0.1:{listener.getsockname()[1]}")
    finally:
        server.should_exit = True
        thread.join(15)
        listener.close()


def shrink(endpoint: socket.socket, socket_bytes: int | None) -> None:
    """Bound what the kernel buffers for ``endpoint`` in either direction."""
    if socket_bytes is not None:
        endpoint.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, socket_bytes)
        endpoint.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, socket_bytes)


def wait_until(holds: Any, timeout_s: float = 10.0) -> None:
    """Return once ``holds()``; fail after ``timeout_s``."""
    end = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)


def rows(number: int) -> list[dict[str, Any]]:
    """Return rows for ``exact``; every third one is right."""
    return [
        {"item": {"answer": "yes"}, "model_sample": "yes" if index % 3 == 0 else "no"}
        for index in range(number)
    ]


def lines(entries: Sequence[Any]) -> bytes:
    """Return ``entries`` as NDJSON."""
    return msgspec.json.Encoder().encode_lines(entries)


def read_lines(text: bytes) -> list[Any]:
    """Return what NDJSON says."""
    return [json.loads(line) for line in text.splitlines()]


def metric(text: str, series: str) -> float:
    """Return the value of one series of a Prometheus text; 0.0 when it is absent."""
    for line in text.splitlines():
        if line.startswith(f"{series} "):
            return float(line.rpartition(" ")[2])
    return 0.0


_SERVE = """
import socket, sys, uvicorn
from service.app import app_from_environment
from service.connections import bounded
from service.settings import Settings
http = bounded(Settings.from_environment().receive_timeout_s)
config = uvicorn.Config(app_from_environment, factory=True, loop="uvloop", http=http,
                        ws="none", lifespan="on", log_config=None, access_log=False,
                        timeout_graceful_shutdown=10)
uvicorn.Server(config).run(sockets=[socket.socket(fileno=int(sys.argv[1]))])
"""


class Child:
    """The service in a process of its own.

    Attributes:
        process: The process.
        url: Where it listens.
    """

    def __init__(self, process: subprocess.Popen[bytes], url: str, log: Path) -> None:
        self.process = process
        self.url = url
        self._log = log

    def events(self) -> list[dict[str, Any]]:
        """Return what it has logged."""
        complete, _, _ = self._log.read_text().rpartition("\n")
        return [json.loads(line) for line in complete.splitlines()]

    def logged(self, event: str) -> bool:
        """Return whether it has logged ``event``."""
        return any(line["event"] == event for line in self.events())

    def stop(self) -> int:
        """Ask it to end, and return its exit status."""
        self.process.terminate()
        return self.process.wait(20)


@contextlib.contextmanager
def running(directory: Path, log: Path, **environment: str) -> Iterator[Child]:
    """Run the service in a process of its own, by its environment variables."""
    variables = {
        "GRADEKEEPER_DEFINITIONS": str(directory),
        "GRADEKEEPER_BUNDLED_DEFINITIONS": "false",
        **environment,
    }
    with socket.create_server(("127.0.0.1", 0)) as listener, log.open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-c", _SERVE, str(listener.fileno())],
            env={**os.environ, **variables},
            pass_fds=[listener.fileno()],
            stderr=stderr,
        )
        child = Child(process, f"http://127.0.0.1:{listener.getsockname()[1]}", log)
    try:
        wait_until(lambda: is_answering(child))
        yield child
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(10)


def is_answering(child: Child) -> bool:
    """Return whether the service answers; fail when it has ended."""
    assert child.process.poll() is None, child.events()
    try:
        return httpx.get(f"{child.url}/healthz", timeout=1).status_code == 200
    except httpx.TransportError:
        return False
