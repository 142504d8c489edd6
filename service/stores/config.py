"""What a store is told at start: where Redis is and how long a grade may wait for it."""

from __future__ import annotations

import re
from typing import Literal
from urllib.parse import unquote, urlsplit

import msgspec

_HOST = re.compile(r"(?P<host>\[[0-9a-fA-F:]+\]|[^:\[\]]+)(?::(?P<port>[0-9]{1,5}))?")

RedisKind = Literal["single", "sentinel", "cluster"]


class StoreConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How to reach Redis and when to give up on it.

    Attributes:
        url: ``redis://``, ``rediss://`` (TLS), ``unix://``,
            ``redis+sentinel://[user:password@]host:port,host:port/service/db``,
            ``redis+cluster://host:port,host:port``; ``rediss+sentinel`` and ``rediss+cluster`` are
            the same over TLS. None keeps everything in this process.
        prefix: Start of every key, so that several installations can share one server.
        timeout_s: Longest wait for one answer of Redis, in seconds; then the grade goes on without.
        failures_to_open: Failed or late answers in a row after which Redis is left alone.
        probe_s: Seconds between two probes of a Redis that is left alone.
        tls_ca_file: Certificate authority of a TLS server; None takes the system's.
        memory_entries: Values kept by `MemoryStore`.
        memory_bytes: Bytes of values kept by `MemoryStore`.
    """

    url: str | None = None
    prefix: str = "gradekeeper"
    timeout_s: float = 0.15
    failures_to_open: int = 3
    probe_s: float = 0.5
    tls_ca_file: str | None = None
    memory_entries: int = 20_000
    memory_bytes: int = 64 * 1024 * 1024

    def __repr__(self) -> str:
        """Return the kind of store only: the URL may hold a password."""
        return f"StoreConfig({(self.url or 'memory').partition(':')[0]})"


class RedisAddress(msgspec.Struct, frozen=True, kw_only=True):
    """A Redis URL taken apart.

    Attributes:
        kind: Which client it needs.
        hosts: At least one host and port; the first one for a single server.
        tls: Whether connections are encrypted.
        service: Sentinel's name of the primary.
        db: Number of the database.
        username: User to log in as.
        password: Their password; secret.
        socket_path: Path of a Unix socket; then ``hosts`` means nothing.
    """

    kind: RedisKind
    hosts: tuple[tuple[str, int], ...]
    tls: bool = False
    service: str = ""
    db: int = 0
    username: str | None = None
    password: str | None = None
    socket_path: str | None = None

    def __repr__(self) -> str:
        """Return what is no secret."""
        return f"RedisAddress({self.kind}, {self.hosts})"


_SCHEMES: dict[str, tuple[RedisKind, bool]] = {
    "redis": ("single", False),
    "rediss": ("single", True),
    "unix": ("single", False),
    "redis+sentinel": ("sentinel", False),
    "rediss+sentinel": ("sentinel", True),
    "redis+cluster": ("cluster", False),
    "rediss+cluster": ("cluster", True),
}


def parse_url(url: str) -> RedisAddress:
    """Return what ``url`` says.

    Raises:
        ValueError: It is none of the kinds `StoreConfig` lists; the message never repeats the URL,
            which may hold a password.
    """
    parts = urlsplit(url)
    if parts.scheme not in _SCHEMES:
        known = ", ".join(_SCHEMES)
        raise ValueError(f"the Redis URL's scheme is {parts.scheme!r}; known schemes: {known}")
    kind, tls = _SCHEMES[parts.scheme]
    login, _, hosts = parts.netloc.rpartition("@")
    username, _, password = login.partition(":")
    path = [unquote(part) for part in parts.path.split("/") if part]
    if parts.scheme == "unix":
        return RedisAddress(
            kind=kind,
            hosts=(("", 0),),
            socket_path=unquote(parts.path),
            username=unquote(username) or None,
            password=unquote(password) or None,
        )
    service = ""
    if kind == "sentinel":
        if not path:
            raise ValueError("a Sentinel URL names the service: redis+sentinel://host:port/service")
        service = path.pop(0)
    return RedisAddress(
        kind=kind,
        hosts=_hosts(hosts, default_port=26379 if kind == "sentinel" else 6379),
        tls=tls,
        service=service,
        db=_db(path, kind),
        username=unquote(username) or None,
        password=unquote(password) or None,
    )


def _hosts(text: str, *, default_port: int) -> tuple[tuple[str, int], ...]:
    found = []
    for part in text.split(","):
        match = _HOST.fullmatch(part)
        port = int(match["port"] or default_port) if match else 0
        if match is None or not 0 < port < 2**16:
            raise ValueError("the Redis URL needs host or host:port, several separated by commas")
        found.append((match["host"].strip("[]"), port))
    return tuple(found)


def _db(path: list[str], kind: RedisKind) -> int:
    if not path:
        return 0
    if len(path) > 1 or not path[0].isdecimal():
        raise ValueError("the Redis URL's path ends with the number of the database")
    if kind == "cluster" and int(path[0]):
        raise ValueError("a Redis Cluster has database 0 only")
    return int(path[0])
