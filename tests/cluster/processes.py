"""Two services of one worker each behind HAProxy, with a real Redis and a scripted judge.

Everything runs in processes of its own, as in production, but for the judge model behind the
OpenAI-compatible endpoint, which a test scripts.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import httpx
import psutil
import pytest

from tests.cluster.workload import DEFINITIONS
from tests.judge.served import PRICE
from tests.sandbox import image
from tests.stores.server import RedisServer, free_port

ROOT = Path(__file__).parents[2]
KEY = "gk-cluster"
START_S = 60.0
_PREFIX = "GRADEKEEPER_"
_SERVE = "import tests.cluster.wall_clock; from service.cli import main; main()"
_MISSING = "haproxy is not installed: apt-get install haproxy"


def until(holds: Callable[[], bool], timeout_s: float = START_S) -> None:
    """Return once ``holds()``; fail after ``timeout_s``."""
    end = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.02)


class _Listening:
    """A process that listens on a port of this machine."""

    port: int
    _process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None
        return self._process.pid


class Service(_Listening):
    """One ``gradekeeper serve`` on a port of its own, which it keeps over restarts.

    Attributes:
        port: Where it listens, on 127.0.0.1.
        environment: Environment variables of the next start; ``{port}`` stands for its port.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        """Prepare; the log goes to a file in ``folder``."""
        self.port = free_port()
        self.environment = dict(environment)
        self._log = folder / f"service-{self.port}.log"

    def start(self) -> None:
        """Start it; `await_ready` waits until it serves."""
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(_PREFIX)}
        ours = {k: v.replace("{port}", str(self.port)) for k, v in self.environment.items()}
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _SERVE, "serve"],
                cwd=ROOT,
                env={**inherited, **ours, f"{_PREFIX}PORT": str(self.port)},
                stdout=subprocess.DEVNULL,
                stderr=log,
            )

    def is_ready(self) -> bool:
        """Return whether it serves, its sandbox included; fail when it has ended."""
        assert self._process is not None
        assert self._process.poll() is None, self._log.read_text()[-4000:]
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"{self.url}/readyz", timeout=5).status_code == 200
        return False

    def await_ready(self) -> None:
        """Return once it is ready."""
        until(self.is_ready)

    def family(self) -> list[psutil.Process]:
        """Return it and every process it has started."""
        parent = psutil.Process(self.pid)
        return [parent, *parent.children(recursive=True)]

    def workers(self) -> list[psutil.Process]:
        """Return the processes that serve, without their zygotes."""
        parent = psutil.Process(self.pid)
        children = [child for child in parent.children() if child.status() != psutil.STATUS_ZOMBIE]
        spawned = [each for each in children if "multiprocessing.spawn" in str(each.cmdline())]
        return spawned or [parent]

    def kill(self) -> None:
        """End it at once, as the kernel does with a process that takes too much memory."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop(self, timeout_s: float = 40.0) -> int:
        """Ask it to end, and return its exit status."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(timeout_s)

    def end(self) -> None:
        """End it, however it is."""
        if self._process is not None and self._process.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.stop(10)
                return
            self.kill()

    def has_logged(self, event: str) -> bool:
        """Return whether it has logged ``event``; a full disk may have cut other lines."""
        return f'"event":"{event}"' in self._log.read_text()

    def clock(self) -> float:
        """Return the time of the last request that it has logged, in seconds since 1970."""
        return float(re.findall(r'"time":([0-9.]+),', self._log.read_text())[-1])

    def metric(self, series: str) -> float:
        """Return the value of one series, 0.0 when it is absent."""
        headers = {"authorization": f"Bearer {KEY}"}
        text = httpx.get(f"{self.url}/metrics", headers=headers, timeout=10).text
        for line in text.splitlines():
            if line.startswith(f"gradekeeper_{series} "):
                return float(line.rpartition(" ")[2])
        return 0.0


class Balancer(_Listening):
    """HAProxy in front of the services.

    Attributes:
        port: Where it listens, on 127.0.0.1.
    """

    def __init__(self, folder: Path, ports: list[int]) -> None:
        """Prepare to balance between ``ports``."""
        if shutil.which("haproxy") is None:
            pytest.fail(_MISSING)
        self.port = free_port()
        servers = [f"    server s{port} 127.0.0.1:{port} check\n" for port in ports]
        template = Path(__file__).with_name("haproxy.cfg").read_text()
        self._file = folder / "haproxy.cfg"
        self._file.write_text(template.replace("{port}", str(self.port)) + "".join(servers))

    def start(self) -> None:
        """Start it and wait until it has found every service."""
        self._process = subprocess.Popen(["haproxy", "-q", "-db", "-f", str(self._file)])
        until(self._is_answering)

    def _is_answering(self) -> bool:
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"{self.url}/readyz", timeout=5).status_code == 200
        return False

    def end(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


class Cluster:
    """What the scenarios break.

    Attributes:
        services: Two of them.
        balancer: In front of both.
        redis: Their shared memory.
        folder: For files; removed at the end.
    """

    def __init__(
        self, folder: Path, redis: RedisServer, judge_url: str, settings: Mapping[str, str]
    ) -> None:
        """Prepare services with ``settings``, which are without their prefix."""
        self.folder = folder
        self.redis = redis
        environment = _environment(folder, redis.url, judge_url, settings)
        self.services = [Service(folder, environment) for _ in range(2)]
        self.balancer = Balancer(folder, [service.port for service in self.services])

    @property
    def url(self) -> str:
        """Where clients ask."""
        return self.balancer.url

    def await_ready(self) -> None:
        """Return once every service is ready."""
        for service in self.services:
            service.await_ready()


@contextlib.contextmanager
def cluster(
    judge_url: str,
    *,
    parent: Path | None = None,
    settings: Mapping[str, str] | None = None,
    variables: Mapping[str, str] | None = None,
) -> Iterator[Cluster]:
    """Run everything.

    Args:
        judge_url: Base URL of the judge model.
        parent: Where files go.
        settings: Those of the services, without their prefix.
        variables: Further environment variables of the services.
    """
    with (
        tempfile.TemporaryDirectory(prefix="cluster-", dir=parent) as folder,
        RedisServer() as redis,
    ):
        Path(folder).chmod(0o755)
        found = Cluster(Path(folder), redis, judge_url, settings or {})
        for service in found.services:
            service.environment.update(variables or {})
        try:
            for service in found.services:
                service.start()
            found.await_ready()
            found.balancer.start()
            yield found
        finally:
            found.balancer.end()
            for service in found.services:
                service.end()


def _environment(
    folder: Path, redis_url: str, judge_url: str, settings: Mapping[str, str]
) -> dict[str, str]:
    definitions = folder / "definitions"
    for name, grader in DEFINITIONS.items():
        (definitions / name).mkdir(parents=True)
        (definitions / name / "1.json").write_text(json.dumps(grader))
    routes = folder / "routes.json"
    route = {"name": "judge", "base_url": judge_url, "concurrency": 256, "price": PRICE}
    routes.write_text(json.dumps({"routes": [route]}))
    image.built()
    ours = {
        "API_KEY": KEY,
        "DEFINITIONS": str(definitions),
        "BUNDLED_DEFINITIONS": "false",
        "REDIS_URL": redis_url,
        "JUDGE_ROUTES_FILE": str(routes),
        "SANDBOX_IMAGES_DIR": str(image.directory().parent),
        "SANDBOX_SLOTS": "1",  # two services share two cores
        **settings,
    }
    return {f"{_PREFIX}{name}": value for name, value in ours.items()}
