"""The one middleware around the application: keys, request ids, access log and request metrics.

Pure ASGI, because everything Litestar offers for this costs several times the handling of a
request (spec/performance.md §2.3). What happens on every request is kept to a few lookups;
counting and logging are done in bulk by `flush`, a few times a second.
"""

from __future__ import annotations

import itertools
import re
import secrets
import time
from collections import Counter
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote

from litestar.utils import normalize_path

from service.auth import Key, KeySource
from service.counting import Counts, Observations
from service.logs import AccessLine, AccessLog
from service.problems import denied
from service.urls import is_packed, unpack

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}\Z")
_FLUSH_LINES = 256
_MAX_PATH_CHARS = 2048  # routing remembers the last paths
_UNROUTED = "(none)"
_METHODS = {"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"}
_OTHER = "(other)"

# First match decides; None is open to everybody. Everything unlisted needs any key at all.
_SCOPES: tuple[tuple[str, str | None], ...] = (
    ("/v1/graders", "score"),
    ("/v1/fine_tuning/", "run"),
    ("/openai/v1/fine_tuning/", "run"),
    ("/healthz", None),
    ("/readyz", None),
    ("/schema", None),
    ("/metrics", "metrics"),
)
_PUBLISHING = re.compile(r"/v1/graders/[^/]+/(?:versions/?|labels/.*)\Z", re.DOTALL)
_URL_SCOPES = frozenset({"score"})


class Edge:
    """ASGI application around the application."""

    def __init__(
        self,
        app: Any,  # noqa: ANN401 - any ASGI app
        *,
        keys: KeySource,
        counts: Counts,
        access_log: AccessLog | None,
    ) -> None:
        """Wrap ``app``; without an access log requests are only counted."""
        self._app = app
        self._keys = keys
        self._counts = counts
        self._metrics = counts.metrics
        self._seconds: dict[str, Observations] = {}  # of requests, by route
        self._log = access_log
        self._ids = itertools.count()
        self._prefix = secrets.token_hex(6)
        self._lines: list[AccessLine] = []  # of the requests since the last flush
        self._in_flight = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401 - ASGI
        """Handle one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        secret, request_id, is_encoded = _presented(scope["headers"])
        if request_id is None:
            request_id = f"{self._prefix}-{next(self._ids):x}".encode()
        header = (b"x-request-id", request_id)
        status = 500

        async def send_with_id(message: Any) -> None:  # noqa: ANN401 - ASGI
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), header]
            await send(message)

        scope["request_id"] = request_id
        path: str = scope["path"]
        if "//" in path or path[:1] != "/":
            # keys must be checked on the very path that the router will see
            path = scope["path"] = normalize_path(path)
        in_url = None
        if is_packed(path, scope["query_string"]):
            path, in_url = _unpacked(scope)
        key, refusal = self._admit(scope["method"], path, secret, in_url)
        if is_encoded and refusal is None:
            refusal = 415, "bodies are taken as they are, without a content encoding"
        scope["api_key"] = key
        self._in_flight += 1
        try:
            if refusal is None:
                await self._app(scope, receive, send_with_id)
            else:
                code, message = refusal
                await denied(scope, send_with_id, code, message)
        finally:
            self._in_flight -= 1
            client = scope.get("client")
            self._lines.append(
                AccessLine(
                    time=round(time.time(), 3),
                    level="info",
                    event="request",
                    request_id=request_id.decode(),
                    method=scope["method"],
                    route=scope.get("path_template") or _UNROUTED,
                    status=status,
                    seconds=round(time.perf_counter() - started, 6),
                    key=key.name if key else None,
                    client=client[0] if client else None,
                )
            )
            if len(self._lines) >= _FLUSH_LINES:
                self.flush()

    def _admit(
        self, method: str, path: str, secret: bytes | None, in_url: bytes | None = None
    ) -> tuple[Key | None, tuple[int, str] | None]:
        """Return the caller's key, and why the call is refused if it is.

        A key in the URL counts where no header has one of ours: a proxy's own token may stand
        there, as Cloud Run's identity token does. URLs end up in configuration files and proxies'
        logs, so such a key must be good for nothing but scoring.
        """
        if len(path) > _MAX_PATH_CHARS:
            return None, (414, f"the path is longer than {_MAX_PATH_CHARS} characters")
        ring = self._keys.ring
        if ring.is_open:
            return None, None
        needed = _needed_scope(method, path)
        if needed is None:
            return None, None
        key = ring.find(secret) if secret else None
        if key is None and in_url and needed == "score":
            key = ring.find(in_url)
            if key is not None and key.scopes != _URL_SCOPES:
                return key, (403, "a key in a URL must have the scope 'score' and no other")
        if key is None:
            return None, (401, "a valid API key is needed: Authorization: Bearer …")
        if needed and needed not in key.scopes:
            return key, (403, f"this key lacks the scope '{needed}'")
        return key, None

    def flush(self) -> None:
        """Count and log everything observed since the last time."""
        self._counts.flush()
        self._metrics.in_flight.set(self._in_flight)
        lines, self._lines = self._lines, []
        answered = Counter((_known(line.method), line.route, line.status) for line in lines)
        for (method, route, status), number in answered.items():
            self._metrics.requests.labels(method, route, str(status)).inc(number)
        for line in lines:
            self._of(line.route).waiting.append(line.seconds)
        for seconds in self._seconds.values():
            seconds.flush()
        if self._log is not None:
            self._log.write(lines)

    def _of(self, route: str) -> Observations:
        """Return what collects the seconds of one route."""
        seconds = self._seconds.get(route)
        if seconds is None:
            child = self._metrics.request_seconds.labels(route)
            seconds = self._seconds[route] = Observations(child)
        return seconds


def _known(method: str) -> str:
    """Return ``method``, if it is one of those that are counted by name."""
    return method if method in _METHODS else _OTHER


def _needed_scope(method: str, path: str) -> str | None:
    """Return the scope that a call needs: empty for any, None where no key is needed."""
    for prefix, scope in _SCOPES:
        if path.startswith(prefix):
            publishes = scope == "score" and method != "GET" and _PUBLISHING.match(path)
            return "publish" if publishes else scope
    return ""


def _unpacked(scope: Any) -> tuple[str, bytes | None]:  # noqa: ANN401 - ASGI
    """Take key and parameters out of the URL in ``scope``; return the path left and the key."""
    raw_path = scope.get("raw_path") or quote(scope["path"]).encode()
    if b"//" in raw_path or raw_path[:1] != b"/":
        raw_path = normalize_path(raw_path.decode("latin-1")).encode("latin-1")
    url = unpack(raw_path, scope["query_string"])
    scope["raw_path"], scope["query_string"] = url.raw_path, url.query
    path = scope["path"] = normalize_path(url.path)
    return path, url.key


def _presented(headers: Iterable[tuple[bytes, bytes]]) -> tuple[bytes | None, bytes | None, bool]:
    """Return the key, the well-formed request id, and whether the body has a content encoding."""
    secret: bytes | None = None
    request_id: bytes | None = None
    is_encoded = False
    for name, value in headers:
        if name == b"authorization":
            secret = value[7:] if value[:7].lower() == b"bearer " else value
        elif name in (b"api-key", b"x-api-key"):
            secret = secret or value
        elif name == b"xrl-authorization":  # ROLL's own
            secret = secret or (value[7:] if value[:7].lower() == b"bearer " else value)
        elif name == b"x-request-id" and _REQUEST_ID.match(value):
            request_id = value
        elif name == b"content-encoding":
            is_encoded = is_encoded or value.strip().lower() not in {b"", b"identity"}
    return secret, request_id, is_encoded
