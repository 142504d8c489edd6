"""Runners for tests, in this process and as the real command, and what asks them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import uvicorn

from graders.ports import SandboxRun
from service.adapters import LateSandbox
from service.cli.listening import bind_unix
from service.cli.runner import JUDGE_KEYS
from service.runner import Runner
from service.sandbox import RemoteConfig, RemoteSandbox, SubprocessSandbox
from service.settings import Settings
from service.tokens import TokenFile
from tests.sandbox import image

HALF = "def grade(sample, item):\n    return 0.5\n"
SLEEP = "import time\ndef grade(sample, item):\n    time.sleep(item['s'])\n    return 0.25\n"
_MAIN = "from service.cli import main; raise SystemExit(main())"


def question(source: str = HALF, sample: object = None, item: object = None) -> SandboxRun:
    """Return a run of ``source``."""
    payload = msgspec.json.encode({"sample": sample or {}, "item": item or {}})
    return SandboxRun(source=source, image_tag=image.TAG, payload=payload)


def settings(**changes: Any) -> Settings:
    """Return settings of a runner with the image that tests share."""
    image.built()
    fields: dict[str, Any] = {
        "sandbox_images_dir": str(image.directory().parent),
        "sandbox_slots": 2,
        "sandbox_timeout_s": 20.0,
    }
    return Settings(**(fields | changes))


@contextlib.asynccontextmanager
async def asking(url: str, token_file: str = "", **changes: Any) -> AsyncIterator[RemoteSandbox]:
    """Give what asks the runner at ``url``."""
    sandbox = RemoteSandbox(RemoteConfig(url=url, **changes), TokenFile(token_file))
    try:
        yield sandbox
    finally:
        await sandbox.close()


class Live:
    """A runner on this event loop.

    Attributes:
        app: The application.
        path: Its socket.
        url: The same as the service is told it.
        sandbox: What runs the graders.
    """

    def __init__(self, app: Runner, path: Path, sandbox: LateSandbox) -> None:
        self.app = app
        self.path = path
        self.url = f"unix://{path}"
        self._late = sandbox

    @property
    def sandbox(self) -> SubprocessSandbox:
        running = self._late.running
        assert isinstance(running, SubprocessSandbox)
        return running

    def client(self) -> httpx.AsyncClient:
        """Return a plain HTTP client."""
        transport = httpx.AsyncHTTPTransport(uds=str(self.path))
        return httpx.AsyncClient(transport=transport, base_url="http://runner", timeout=30)


@contextlib.asynccontextmanager
async def running(directory: Path, *, max_calls: int = 1000, **changes: Any) -> AsyncIterator[Live]:
    """Serve a runner at a socket in ``directory``."""
    chosen = settings(**changes)
    late = LateSandbox(chosen)
    app = Runner(chosen, late, TokenFile(chosen.sandbox_token_file), max_calls=max_calls)
    path = directory / "runner.sock"
    listener = bind_unix(str(path), 100)
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            interface="asgi3",
            http="httptools",
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=5,
        )
    )
    task = asyncio.ensure_future(server._serve([listener]))
    try:
        async with asyncio.timeout(60):
            while not server.started:
                assert not task.done(), app.failure
                await asyncio.sleep(0.01)
        yield Live(app, path, late)
    finally:
        server.should_exit = True
        await task
        listener.close()


def not_for_a_runner(variable: str) -> bool:
    """Return whether ``variable`` of whoever runs the tests must not reach a runner."""
    return variable.startswith("GRADEKEEPER_") or variable in JUDGE_KEYS


class Command:
    """The command ``gradekeeper runner`` as a process.

    Attributes:
        process: The process.
    """

    def __init__(self, *arguments: str, **environment: str) -> None:
        """Start it."""
        image.built()
        clean = {name: v for name, v in os.environ.items() if not not_for_a_runner(name)}
        variables = {
            "GRADEKEEPER_SANDBOX_IMAGES_DIR": str(image.directory().parent),
            "GRADEKEEPER_SANDBOX_SLOTS": "2",
            **environment,
        }
        self.process = subprocess.Popen(
            [sys.executable, "-c", _MAIN, "runner", *arguments],
            env=clean | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait_ready(self, path: Path) -> None:
        """Return once it answers at ``path``."""
        end = time.monotonic() + 60
        while time.monotonic() < end:
            assert self.process.poll() is None, self.process.communicate()
            with socket.socket(socket.AF_UNIX) as asked, contextlib.suppress(OSError):
                asked.settimeout(10)
                asked.connect(str(path))
                asked.sendall(b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n")
                if b" 200 " in asked.recv(15):
                    return
            time.sleep(0.02)
        raise AssertionError("the runner did not get ready")

    def end(self, sent: signal.Signals | None = signal.SIGTERM) -> tuple[int, str, str]:
        """Return exit code, output and errors, after ``sent``."""
        if sent is not None:
            self.process.send_signal(sent)
        out, err = self.process.communicate(timeout=30)
        return self.process.returncode, out, err


@contextlib.contextmanager
def command(*arguments: str, **environment: str) -> Iterator[Command]:
    """Run the command; it is gone afterwards."""
    started = Command(*arguments, **environment)
    try:
        yield started
    finally:
        if started.process.poll() is None:
            started.process.kill()
            started.process.communicate()


async def until(holds: Any, patience_s: float = 20.0) -> None:
    """Return once ``holds()``; fail after ``patience_s``."""
    async with asyncio.timeout(patience_s):
        while not holds():  # noqa: ASYNC110 - what is looked at belongs to other processes
            await asyncio.sleep(0.005)


def log_of(errors: str) -> list[dict[str, Any]]:
    """Return the events among what was written to standard error."""
    return [json.loads(line) for line in errors.splitlines() if line.startswith("{")]
