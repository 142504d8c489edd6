"""Servers as processes of their own, pinned to one core, with their CPU time and memory."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import psutil

_ALLOWED = os.sched_getaffinity(0)  # before anything here is pinned
ROOT = Path(__file__).parents[2]

_PREFIX = "GRADEKEEPER_"
_POLL_S = 0.003
_START_S = 30.0
_MIB = 1024 * 1024

# As `gradekeeper serve` runs its own (spec/performance.md §9.1).
_UVICORN = (
    *("--loop", "uvloop", "--http", "httptools", "--log-level", "warning"),
    *("--no-access-log", "--no-server-header", "--no-date-header", "--no-proxy-headers"),
    *("--timeout-keep-alive", "75", "--backlog", "2048"),
)


class Server:
    """A running server.

    Attributes:
        port: Where it listens, on 127.0.0.1.
        ready_s: From the start of the process to its first answer.
    """

    def __init__(self, process: subprocess.Popen[bytes], port: int, ready_s: float) -> None:
        """Take over ``process``."""
        self._process = psutil.Process(process.pid)
        self.port = port
        self.ready_s = ready_s

    def cpu_s(self) -> float:
        """Return the CPU time of it and all its processes, those that ended included."""
        times = self._process.cpu_times()
        total = times.user + times.system + times.children_user + times.children_system
        for child in self._process.children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                times = child.cpu_times()
                total += times.user + times.system
        return total

    def settle(self) -> None:
        """Wait until nothing starts in the background any more: its CPU time is no request's."""
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline:
            with contextlib.suppress(RuntimeError):
                self.answer("GET", "/readyz")
                return
            time.sleep(_POLL_S)
        raise RuntimeError("the server is not ready")

    def rss_mib(self) -> float:
        """Return the memory of the worker that is resident."""
        return float(self._process.memory_info().rss) / _MIB

    def peak_rss_mib(self) -> float:
        """Return the most memory of the worker that was resident since `forget_peak`."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) / 1024

    def forget_peak(self) -> None:
        """Start `peak_rss_mib` anew."""
        Path(f"/proc/{self._process.pid}/clear_refs").write_text("5")

    def answer(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> bytes:
        """Return the body of one answer.

        Raises:
            RuntimeError: The status is not 200.
        """
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        with contextlib.closing(connection):
            connection.request(method, path, body, dict(headers or {}))
            response = connection.getresponse()
            content = response.read()
        if response.status != 200:
            raise RuntimeError(f"{method} {path}: {response.status} {content[:500]!r}")
        return content


def cores() -> tuple[int, int]:
    """Return the core of servers and the core of load; the same one where there is only one."""
    allowed = sorted(_ALLOWED)
    return allowed[0], allowed[-1]


def all_cores() -> set[int]:
    """Return every core that this program may use."""
    return set(_ALLOWED)


@contextlib.contextmanager
def uvicorn(factory: str, settings: Mapping[str, str] | None = None) -> Iterator[Server]:
    """Run the ASGI application that ``factory`` (``module:function``) makes of ``settings``."""
    command = [sys.executable, "-m", "uvicorn", "--factory", factory, *_UVICORN]
    with _running(command, _variables(settings or {})) as server:
        yield server


@contextlib.contextmanager
def gradekeeper(settings: Mapping[str, str]) -> Iterator[Server]:
    """Run ``gradekeeper serve`` with ``settings`` (without their prefix), all others at default."""
    command = [sys.executable, "-c", "from service.cli import main; main()", "serve"]
    with _running(command, _variables(settings)) as server:
        yield server


def _variables(settings: Mapping[str, str]) -> dict[str, str]:
    return {f"{_PREFIX}{name}": value for name, value in settings.items()}


@contextlib.contextmanager
def _running(command: Sequence[str], environment: Mapping[str, str]) -> Iterator[Server]:
    port = _free_port()
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(_PREFIX)}
    inherited.pop("PYTHONDONTWRITEBYTECODE", None)  # else every start would pay the compiler
    with tempfile.TemporaryFile() as log:
        started = time.perf_counter()
        process = subprocess.Popen(
            [*command, "--port", str(port)],
            cwd=ROOT,
            env={**inherited, **environment},
            stdout=log,
            stderr=log,
        )
        os.sched_setaffinity(process.pid, {cores()[0]})
        try:
            while not _answers(port):
                if process.poll() is not None or time.perf_counter() - started > _START_S:
                    log.seek(0)
                    raise RuntimeError(f"no answer from {command}:\n{log.read()[-4000:].decode()}")
                time.sleep(_POLL_S)
            yield Server(process, port, time.perf_counter() - started)
        finally:
            process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()
            process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    with contextlib.closing(connection):
        try:
            connection.request("GET", "/healthz")
            connection.getresponse()
        except OSError:
            return False
    return True
