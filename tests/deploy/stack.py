"""What compose.yaml starts, as processes: made secrets, Redis, replicas, the load balancer."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import yaml

from tests.api.world import wait_until
from tests.cli.world import COMMAND
from tests.stores.server import RedisServer, free_port

DEPLOY = Path(__file__).parents[2] / "deploy"
ADDRESSES = ("127.0.0.1", "127.0.0.2")
_TYPE_A = 1


def compose() -> dict[str, Any]:
    """Return compose.yaml with its anchors resolved."""
    document: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text("utf-8"))
    return document


def make_secrets(folder: Path) -> Path:
    """Run deploy/make-secrets and return ``folder``."""
    subprocess.run([DEPLOY / "make-secrets", folder], check=True, capture_output=True)
    return folder


def read_env(file: Path) -> dict[str, str]:
    """Return the variables of an env file."""
    lines = [line for line in file.read_text().splitlines() if line and line[0] != "#"]
    return dict(line.split("=", 1) for line in lines)


def redis_server(secrets: Path) -> RedisServer:
    """Return a Redis as compose.yaml configures it, but for address and directory."""
    return _Configured(secrets)


class _Configured(RedisServer):
    def __init__(self, secrets: Path) -> None:
        super().__init__()
        self._secrets = secrets

    def command(self) -> list[str]:
        users = str(self._secrets / "redis-users")
        return [
            *("redis-server", str(DEPLOY / "redis.conf")),
            *("--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)),
            *("--aclfile", users),
        ]


class Names:
    """A name server that says where the replicas are.

    Attributes:
        addresses: What it answers to every question.
        port: Where it listens, on 127.0.0.1.
    """

    def __init__(self, *addresses: str) -> None:
        self.addresses = list(addresses)
        self._socket = socket.socket(type=socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port = int(self._socket.getsockname()[1])
        self._thread = threading.Thread(target=self._answer, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with socket.socket(type=socket.SOCK_DGRAM) as waker:
            waker.sendto(b"", ("127.0.0.1", self.port))
        self._thread.join(10)
        self._socket.close()

    def _answer(self) -> None:
        while True:
            asked, caller = self._socket.recvfrom(4096)
            if not asked:
                return
            end = asked.index(0, 12) + 5  # the name ends with an empty label; type and class follow
            kind = int.from_bytes(asked[end - 4 : end - 2], "big")
            found = self.addresses if kind == _TYPE_A else []
            head = asked[:2] + b"\x81\x80\0\1" + len(found).to_bytes(2, "big") + b"\0\0\0\0"
            # Each answer points at the name in the question: type A, class IN, 1 s, 4 bytes.
            answers = b"".join(
                b"\xc0\x0c\0\1\0\1\0\0\0\1\0\4" + socket.inet_aton(address) for address in found
            )
            self._socket.sendto(head + asked[12:end] + answers, caller)


class Replica:
    """One process of the service.

    Attributes:
        url: Where it listens.
        log: What it says.
        process: The process.
    """

    def __init__(self, address: str, port: int, environment: Mapping[str, str], log: Path) -> None:
        self.url = f"http://{address}:{port}"
        self.log = log
        self._environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("GRADEKEEPER_")},
            **environment,
            "GRADEKEEPER_HOST": address,
            "GRADEKEEPER_PORT": str(port),
        }
        self.start()

    def start(self) -> None:
        """Start it on the same address as before."""
        with self.log.open("ab") as sink:
            self.process = subprocess.Popen(
                [COMMAND, "serve"], env=self._environment, stdout=sink, stderr=sink
            )

    def is_ready(self) -> bool:
        """Return whether it can do its work; fail when it has ended."""
        assert self.process.poll() is None, self.log.read_text()
        return _answers(f"{self.url}/readyz")

    def kill(self) -> None:
        """End it without any farewell."""
        self.process.kill()
        self.process.wait(10)


class Gateway:
    """The load balancer.

    Attributes:
        url: What callers are given.
        operations_url: Its own health and metrics.
    """

    def __init__(self, names: Names, port: int, log: Path) -> None:
        gateway, operations = free_port(), free_port()
        self.url = f"http://127.0.0.1:{gateway}"
        self.operations_url = f"http://127.0.0.1:{operations}"
        self.log = log
        self._sink = log.open("wb")
        self.process = subprocess.Popen(
            [haproxy(), "-W", "-f", str(DEPLOY / "haproxy.cfg")],
            env={
                **os.environ,
                "GATEWAY_BIND": f"127.0.0.1:{gateway}",
                "GATEWAY_OPERATIONS_BIND": f"127.0.0.1:{operations}",
                "GATEWAY_DNS": f"127.0.0.1:{names.port}",
                "GATEWAY_SERVICE": f"service:{port}",
            },
            stdout=self._sink,
            stderr=self._sink,
        )

    def replicas_up(self) -> int:
        """Return how many replicas it hands requests to."""
        text = httpx.get(f"{self.operations_url}/metrics").text
        up = 'haproxy_server_status{proxy="graders",server="replica'
        return sum(line.startswith(up) and 'state="UP"} 1' in line for line in text.splitlines())

    def close(self) -> None:
        """End it."""
        self.process.terminate()
        self.process.wait(10)
        self._sink.close()


def haproxy() -> str:
    """Return the load balancer's program.

    Raises:
        AssertionError: It is not installed; `make test` installs it.
    """
    found = shutil.which("haproxy", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    assert found, "haproxy is not installed: apt-get install haproxy"
    return found


class Stack:
    """Everything, running.

    Attributes:
        secrets: What deploy/make-secrets made.
        redis: The store.
        names: Where the load balancer learns of replicas.
        replicas: The processes of the service.
        gateway: The load balancer.
    """

    def __init__(
        self,
        secrets: Path,
        redis: RedisServer,
        names: Names,
        replicas: list[Replica],
        gateway: Gateway,
    ) -> None:
        self.secrets = secrets
        self.redis = redis
        self.names = names
        self.replicas = replicas
        self.gateway = gateway

    def key(self, name: str) -> str:
        """Return the secret of a key."""
        return (self.secrets / f"{name}.key").read_text().strip()

    def client(self, key: str = "trainer", **headers: str) -> httpx.Client:
        """Return a client of the load balancer."""
        headers = {"authorization": f"Bearer {self.key(key)}", **headers}
        return httpx.Client(base_url=self.gateway.url, headers=headers, timeout=30)

    def settle(self) -> None:
        """Wait until every replica is ready and gets requests."""
        wait_until(lambda: all(replica.is_ready() for replica in self.replicas), 60)
        wait_until(lambda: self.gateway.replicas_up() == len(self.replicas), 30)


@contextlib.contextmanager
def running(folder: Path, environment: Mapping[str, str]) -> Iterator[Stack]:
    """Run the stack with what compose.yaml gives the service, changed by ``environment``."""
    secrets = make_secrets(folder / "secrets")
    with contextlib.ExitStack() as stack:
        redis = stack.enter_context(redis_server(secrets))
        names = stack.enter_context(Names(*ADDRESSES))
        port = free_port()
        given = {**service_environment(secrets, redis), **environment}
        replicas = [
            Replica(address, port, given, folder / f"{address}.log") for address in ADDRESSES
        ]
        for replica in replicas:
            stack.callback(replica.kill)
        gateway = Gateway(names, port, folder / "gateway.log")
        stack.callback(gateway.close)
        wait_until(lambda: _answers(f"{gateway.operations_url}/healthz"), 30)
        found = Stack(secrets, redis, names, replicas, gateway)
        found.settle()
        yield found


def service_environment(secrets: Path, redis: RedisServer) -> dict[str, str]:
    """Return what compose.yaml gives the service, with the addresses of this machine."""
    environment = dict(compose()["services"]["service"]["environment"])
    keys = environment["GRADEKEEPER_API_KEYS_FILE"]
    environment["GRADEKEEPER_API_KEYS_FILE"] = str(secrets / Path(keys).name)
    own = read_env(secrets / "gradekeeper.env")
    url = own["GRADEKEEPER_REDIS_URL"].replace("redis:6379", f"127.0.0.1:{redis.port}")
    return {**environment, **own, "GRADEKEEPER_REDIS_URL": url}


def _answers(url: str) -> bool:
    deadline = time.monotonic() + 5
    try:
        return httpx.get(url, timeout=deadline - time.monotonic()).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False
