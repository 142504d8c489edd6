"""A real Redis of the test's own: free port, nothing on disk, ended by its process id."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

MISSING = "redis-server is not installed: apt-get install redis-server"


def free_port() -> int:
    """Return a loopback port that is free now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def certificate(folder: Path) -> tuple[Path, list[str]]:
    """Return the certificate of a server on 127.0.0.1, and the options that make Redis use it."""
    key, cert = folder / "key.pem", folder / "cert.pem"
    names = ["-addext", "subjectAltName=IP:127.0.0.1", "-subj", "/CN=test"]
    files = ["-keyout", str(key), "-out", str(cert)]
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", *names, *files],
        check=True,
        capture_output=True,
    )
    options = ["--tls-cert-file", str(cert), "--tls-key-file", str(key)]
    return cert, [*options, "--tls-ca-cert-file", str(cert), "--tls-auth-clients", "no"]


class RedisServer:
    """One ``redis-server`` (or sentinel) process."""

    def __init__(self, *options: str, tls: bool = False) -> None:
        """Prepare; ``options`` are further command-line arguments."""
        if shutil.which("redis-server") is None:
            pytest.skip(MISSING)
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="redis-test-"))
        self._tls = tls
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """URL of database 0."""
        return f"{'rediss' if self._tls else 'redis'}://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        """Process id, while it runs."""
        assert self._process is not None
        return self._process.pid

    def __enter__(self) -> Self:
        """Start and wait until it listens."""
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End it and remove its folder."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def command(self) -> list[str]:
        """Return the command line."""
        ports = ("--port", "0", "--tls-port") if self._tls else ("--port",)
        return [
            "redis-server",
            *ports,
            str(self.port),
            *("--bind", "127.0.0.1", "--save", "", "--appendonly", "no"),
            *("--dir", str(self.folder), "--daemonize", "no"),
            *self._options,
        ]

    def start(self) -> None:
        """Start the process on the same port as before."""
        self._process = subprocess.Popen(
            self.command(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.02)
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)
        pytest.fail("redis-server did not start")

    def kill(self) -> None:
        """End the process at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """Stop the process without ending it: connections stay, answers do not come."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGCONT)

    def cli(self, *words: str | int) -> str:
        """Return what ``redis-cli`` says to a command."""
        command: Sequence[str] = ["redis-cli", "-p", str(self.port), *map(str, words)]
        done = subprocess.run(command, check=True, capture_output=True, timeout=10)
        return done.stdout.decode("utf-8", "replace").strip()

    def commands(self) -> dict[str, int]:
        """Return calls by command since the last ``CONFIG RESETSTAT``, scripts' own included."""
        found = {}
        for line in self.cli("info", "commandstats").splitlines():
            if line.startswith("cmdstat_"):
                name, _, rest = line.removeprefix("cmdstat_").partition(":calls=")
                found[name] = int(rest.partition(",")[0])
        return found


class Sentinel(RedisServer):
    """A sentinel that watches one server as ``main``."""

    def __init__(self, watched: int) -> None:
        """Prepare to watch the server on port ``watched``."""
        super().__init__()
        self._watched = watched

    def command(self) -> list[str]:
        """Return the command line; a sentinel wants a file it may write to."""
        file = self.folder / "sentinel.conf"
        file.write_text(
            f"port {self.port}\nbind 127.0.0.1\ndir {self.folder}\n"
            f"sentinel monitor main 127.0.0.1 {self._watched} 1\n"
            "sentinel down-after-milliseconds main 500\nsentinel failover-timeout main 2000\n"
        )
        return ["redis-server", str(file), "--sentinel"]
