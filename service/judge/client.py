"""One request to one upstream: the official client over its aiohttp transport, our own bytes.

The client keeps authentication, connection handling and error classes; its retries are off
(`service.judge.lane` has them), and request and reply stay bytes, because building and validating
its models costs more than the rest of the call. The library is imported with the first call.

Messages of failures hold status, error code and type only: an upstream may quote the prompt or
part of a key in its own message.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import re
import socket
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from time import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from service.backoff import retry_after_s
from service.judge.routes import Target, usable_key

if TYPE_CHECKING:
    from openai import APIStatusError, APITimeoutError, AsyncOpenAI

TOO_LARGE: Final = "reply_too_large"
_LONGEST_CONNECT_S: Final = 10.0
_KEEP_ALIVE_S: Final = 20.0
_NAME: Final = re.compile(r"[A-Za-z0-9_.\[\]-]{1,64}")
_CONFLICT: Final = 409
_REQUEST_TIMEOUT: Final = 408
_RATE_LIMITED: Final = 429
_SERVER_ERROR: Final = 500
_NAMED_ERRORS: Final = frozenset(
    (errno.ECONNREFUSED, errno.ECONNRESET, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EMFILE)
)


class CallFailedError(Exception):
    """One attempt that gave no answer.

    Attributes:
        kind: ``http_<status>``, ``timeout``, ``connection``, ``bad_reply``, ``deadline`` …
        details: One sentence without prompt text and secrets.
        again: Whether this call should be tried once more now.
        retryable: Whether a later call could succeed.
        retry_after_s: Seconds the upstream asks us to wait.
        unwell: Whether it speaks against the upstream's health.
        attempts: Attempts made so far.
    """

    def __init__(  # noqa: PLR0913 - the fields of a failure
        self,
        kind: str,
        details: str,
        *,
        again: bool,
        retryable: bool = True,
        retry_after_s: float | None = None,
        unwell: bool = False,
    ) -> None:
        """Keep what happened."""
        self.kind = kind
        self.details = details
        self.again = again
        self.retryable = retryable
        self.retry_after_s = retry_after_s
        self.unwell = unwell
        self.attempts = 0
        super().__init__(details)


class ListedModel(msgspec.Struct, frozen=True):
    """A model as ``GET /models`` lists it.

    Attributes:
        id: Its name.
        shutdown_date: ISO date of its end, where the upstream says so.
    """

    id: str
    shutdown_date: str | None = None


class _Models(msgspec.Struct):
    data: list[ListedModel]


class Upstreams:
    """The clients of all routes, each made with its first call.

    Args:
        wall: Seconds since the epoch, to read dates in ``Retry-After``.
    """

    def __init__(self, *, wall: Callable[[], float] = time) -> None:
        """Start without a client."""
        self._wall = wall
        self._clients: dict[str, AsyncOpenAI] = {}
        self._library: _Library
        self._loading = asyncio.Lock()
        self._closed = False

    async def warm(self, targets: Iterable[Target] = ()) -> None:
        """Import the library and make the clients of ``targets``, in a thread.

        Half a second for the import and a tenth for a client's certificates, which the first call
        then need not pay and the event loop never does.
        """
        for target in targets:
            await self.ready(target)
        self._library = await asyncio.to_thread(_load)

    async def post(self, target: Target, path: str, content: bytes) -> bytes:
        """Return the body of the 2xx answer to ``POST path``.

        Raises:
            CallFailedError: Anything else.
        """
        client = await self.ready(target)
        library = self._library
        response = await self._guarded(
            client.post(path, content=content, cast_to=library.response, options=_JSON)
        )
        body: bytes = response.content
        return body

    async def models(self, target: Target) -> list[ListedModel]:
        """Return what ``GET /models`` lists.

        Raises:
            CallFailedError: The upstream does not say.
        """
        client = await self.ready(target)
        response = await self._guarded(client.get("/models", cast_to=self._library.response))
        try:
            return msgspec.json.decode(response.content, type=_Models).data
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise CallFailedError(
                "bad_reply", "the list of models cannot be read", again=False
            ) from error

    async def close(self) -> None:
        """Close every connection."""
        self._closed = True
        clients, self._clients = self._clients, {}
        for client in clients.values():
            await client.close()

    async def ready(self, target: Target) -> AsyncOpenAI:
        """Return the client for ``target``, made now if need be.

        Awaited before the first attempt, so that its time is not the upstream's.
        """
        client = self._clients.get(target.route.name)
        if client is None:
            if self._closed:
                raise CallFailedError("closing", "the service is shutting down", again=False)
            async with self._loading:
                client = self._clients.get(target.route.name)
                if client is None:
                    self._library = await asyncio.to_thread(_load)
                    client = await asyncio.to_thread(_new_client, target)
                    self._clients[target.route.name] = client
        return client

    async def _guarded(self, request: Awaitable[Any]) -> Any:  # noqa: ANN401 - a raw response
        library = self._library
        try:
            return await request
        except library.timed_out as error:
            # The transport reports a dropped connection as a connect timeout, too.
            details = _reason(error) or "the connection timed out or was dropped"
            raise CallFailedError("connection", details, **_UNWELL) from error
        except library.status as error:
            raise self._status(error) from error
        except library.failed as error:
            details = _reason(error) or "the connection failed"
            raise CallFailedError("connection", details, **_UNWELL) from error

    def _status(self, error: APIStatusError) -> CallFailedError:
        status = error.status_code
        # Declared as texts, and whatever the upstream sent.
        stated: tuple[object, ...] = (error.code, error.type)
        named = [text for text in stated if isinstance(text, str) and _NAME.fullmatch(text)]
        details = f"HTTP {status}" + (f" ({', '.join(dict.fromkeys(named))})" if named else "")
        if error.code == "insufficient_quota":
            return CallFailedError("insufficient_quota", details, again=False, retryable=False)
        passing = status in {_REQUEST_TIMEOUT, _CONFLICT, _RATE_LIMITED} or status >= _SERVER_ERROR
        return CallFailedError(
            f"http_{status}",
            details,
            again=passing,
            retryable=passing,
            retry_after_s=self._retry_after(error.response.headers) if passing else None,
            unwell=status >= _SERVER_ERROR,
        )

    def _retry_after(self, headers: Any) -> float | None:  # noqa: ANN401 - httpx2.Headers
        now_s = self._wall()
        milliseconds = retry_after_s(headers.get("retry-after-ms"), now_s=now_s)
        if milliseconds is not None:
            return milliseconds / 1_000
        return retry_after_s(headers.get("retry-after"), now_s=now_s)


class _Library(NamedTuple):
    """What is used of the client library with every call, looked up once."""

    response: type[Any]
    timed_out: type[APITimeoutError]
    status: type[APIStatusError]
    failed: tuple[type[Exception], ...]


def _load() -> _Library:
    import aiohttp  # noqa: PLC0415
    import httpx2  # noqa: PLC0415 - comes with openai
    import openai  # noqa: PLC0415

    return _Library(
        response=httpx2.Response,
        timed_out=openai.APITimeoutError,
        status=openai.APIStatusError,
        failed=(openai.OpenAIError, httpx2.HTTPError, aiohttp.ClientError, OSError),
    )


_JSON: Final[Any] = {"headers": {"content-type": "application/json"}}
_UNWELL: Final[dict[str, Any]] = {"again": True, "unwell": True}


class _KeyFile:
    """A key that is read again when its file changes.

    A file that is being replaced (away, empty, half of it) leaves the last key in use.
    """

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._changed_ns = -1
        self._key: str | None = None

    async def __call__(self) -> str:
        with contextlib.suppress(OSError, UnicodeDecodeError):
            changed_ns = self._path.stat().st_mtime_ns
            if changed_ns != self._changed_ns:
                key = usable_key(self._path.read_text(encoding="utf-8"))
                if key is not None:
                    self._key, self._changed_ns = key, changed_ns
        if self._key is None:
            raise CallFailedError("key_file", "the file of the route's key has none", again=True)
        return self._key


def _reason(error: BaseException) -> str:
    """Return what the system said about a failed connection; empty when it is not known."""
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, socket.gaierror):
            return "the connection failed (the host's name has no address)"
        if isinstance(found, OSError) and found.errno in _NAMED_ERRORS:
            return f"the connection failed ({os.strerror(found.errno).lower()})"
        found = found.__cause__ or found.__context__
    return ""


def _bounded(max_bytes: int) -> Callable[[Any], Awaitable[None]]:
    """Return a hook that reads the body of a response, up to a bound.

    What it raises passes through the client, which wraps transport errors only.
    """

    async def read(response: Any) -> None:  # noqa: ANN401 - httpx2.Response, imported late
        parts: list[bytes] = []
        size = 0
        async for part in response.aiter_bytes():
            size += len(part)
            if size > max_bytes:
                details = f"the reply is larger than {max_bytes} bytes"
                raise CallFailedError(TOO_LARGE, details, again=False, retryable=False)
            parts.append(part)
        # What `aread` does, which has no bound.
        response._content = b"".join(parts)  # noqa: SLF001 - see above

    return read


def _new_client(target: Target) -> AsyncOpenAI:
    import httpx2  # noqa: PLC0415
    import openai  # noqa: PLC0415

    route = target.route
    limits = httpx2.Limits(
        max_connections=route.concurrency,
        max_keepalive_connections=route.concurrency,
        keepalive_expiry=_KEEP_ALIVE_S,
    )
    timeout = httpx2.Timeout(route.timeout_s, connect=min(route.timeout_s, _LONGEST_CONNECT_S))
    client = openai.AsyncOpenAI(
        base_url=route.base_url,
        # Local servers want no key, the client wants one.
        api_key=_KeyFile(route.api_key_file) if route.api_key_file else target.api_key or "none",
        max_retries=0,
        timeout=timeout,
        http_client=openai.DefaultAioHttpClient(
            limits=limits,
            timeout=timeout,
            event_hooks={"response": [_bounded(route.max_reply_bytes)]},
        ),
    )
    if not route.base_url.startswith("https://api.openai.com/"):
        # The client fills these from the environment; they are nobody else's business.
        client.organization = None
        client.project = None
    return client
