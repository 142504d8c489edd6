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
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import msgspec

from service.auth import Key, KeySource
from service.logs import AccessLine, AccessLog
from service.metrics import Metrics
from service.problems import denied

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}\Z")
_FLUSH_LINES = 256
_UNROUTED = "(none)"

# First match decides; None is open to everybody. Everything unlisted needs any key at all.
_SCOPES: tuple[tuple[str, str | None], ...] = (
    ("/healthz", None),
    ("/readyz", None),
    ("/schema", None),
    ("/metrics", "metrics"),
    ("/v1/fine_tuning/", "run"),
    ("/openai/v1/fine_tuning/", "run"),
    ("/v1/graders", "score"),
)


class Observed(msgspec.Struct, frozen=True):
    """One answered request, until the next flush."""

    request_id: str
    method: str
    route: str
    status: int
    seconds: float
    key: str | None
    client: str | None


class Edge:
    """ASGI application around the application."""

    def __init__(
        self,
        app: Any,  # noqa: ANN401 - any ASGI app
        *,
        keys: KeySource,
        metrics: Metrics,
        access_log: AccessLog | None,
    ) -> None:
        """Wrap ``app``; without an access log requests are only counted."""
        self._app = app
        self._keys = keys
        self._metrics = metrics
        self._log = access_log
        self._ids = itertools.count()
        self._prefix = secrets.token_hex(6)
        self._observed: list[Observed] = []
        self._in_flight = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401 - ASGI
        """Handle one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        secret, request_id = _presented(scope["headers"])
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
        key, refusal = self._admit(scope["path"], secret)
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
            self._observed.append(
                Observed(
                    request_id.decode(),
                    scope["method"],
                    scope.get("path_template") or _UNROUTED,
                    status,
                    time.perf_counter() - started,
                    key.name if key else None,
                    client[0] if client else None,
                )
            )
            if len(self._observed) >= _FLUSH_LINES:
                self.flush()

    def _admit(self, path: str, secret: bytes | None) -> tuple[Key | None, tuple[int, str] | None]:
        """Return the caller's key, and why the call is refused if it is."""
        ring = self._keys.ring
        if not len(ring):
            return None, None
        needed: str | None = ""
        for prefix, scope in _SCOPES:
            if path.startswith(prefix):
                needed = scope
                break
        if needed is None:
            return None, None
        key = ring.find(secret) if secret else None
        if key is None:
            return None, (401, "a valid API key is needed: Authorization: Bearer …")
        if needed and needed not in key.scopes:
            return key, (403, f"this key lacks the scope '{needed}'")
        return key, None

    def flush(self) -> None:
        """Count and log everything observed since the last time."""
        self._metrics.in_flight.set(self._in_flight)
        observed, self._observed = self._observed, []
        counts: defaultdict[tuple[str, str, int], int] = defaultdict(int)
        for seen in observed:
            counts[seen.method, seen.route, seen.status] += 1
            self._metrics.request_seconds.labels(seen.route).observe(seen.seconds)
        for (method, route, status), number in counts.items():
            self._metrics.requests.labels(method, route, str(status)).inc(number)
        if self._log is not None:
            now = time.time()
            for seen in observed:
                self._log.add(
                    AccessLine(
                        time=round(now, 3),
                        level="info",
                        event="request",
                        request_id=seen.request_id,
                        method=seen.method,
                        route=seen.route,
                        status=seen.status,
                        seconds=round(seen.seconds, 6),
                        key=seen.key,
                        client=seen.client,
                    )
                )
            self._log.flush()


def _presented(headers: Iterable[tuple[bytes, bytes]]) -> tuple[bytes | None, bytes | None]:
    """Return the key and the well-formed request id that the caller sent."""
    secret: bytes | None = None
    request_id: bytes | None = None
    for name, value in headers:
        if name == b"authorization":
            secret = value[7:] if value[:7].lower() == b"bearer " else value
        elif name in (b"api-key", b"x-api-key"):
            secret = secret or value
        elif name == b"x-request-id" and _REQUEST_ID.match(value):
            request_id = value
    return secret, request_id
