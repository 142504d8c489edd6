"""Asks endpoint graders: what is sent, how often, how long, and what a failure means.

Sent is ``{"sample": …, "item": …, "trace_id": "trace_…"}`` with the definition's headers; every
retry of a call carries the same ``trace_id``. Retried are failed connections, 429 and 5xx. URLs
and header values are secrets: messages and logs name the host only.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from urllib.parse import urlsplit

import msgspec

from graders.errors import EndpointOverloadedError, EndpointUnavailableError, InputTooLongError
from graders.ports import EndpointCall, EndpointReply
from service.backoff import pause_s, retry_after_s
from service.endpoint_caller.addresses import AddressRefusedError, AddressRule
from service.endpoint_caller.exchange import (
    Answer,
    ConnectionFailedError,
    InvalidUrlError,
    Transport,
)
from service.endpoint_caller.pace import Pace
from service.logs import event

logger = logging.getLogger(__name__)

_encode = msgspec.json.Encoder().encode
_HEADERS = {"content-type": "application/json", "accept": "application/json"}
# Framing and routing are ours; a definition that sets them could speak for other requests.
_OWN_HEADERS = frozenset(
    {
        *("connection", "content-encoding", "content-length", "expect", "host", "keep-alive"),
        *("proxy-authorization", "proxy-connection", "te", "trailer", "transfer-encoding"),
        "upgrade",
    }
)
_SUCCESS, _REDIRECT, _CLIENT_ERROR, _TOO_MANY, _SERVER_ERROR = 200, 300, 400, 429, 500


class EndpointConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Limits of calls to endpoint graders.

    Attributes:
        timeout_s: One attempt, from connecting to the last byte of the answer.
        connect_timeout_s: One connection.
        retries: Attempts after the first.
        first_pause_s: Bound of the pause before the first retry; doubles each time.
        max_pause_s: Bound of any pause; a longer ``Retry-After`` ends the call.
        max_request_bytes: Largest body sent.
        max_response_bytes: Largest answer read.
        concurrency: Exchanges under way at once.
        max_queue_s: Longest wait for a place in a definition's ``rate_limit``.
        allowed_networks: Networks outside the public internet that may be called, as
            ``10.1.0.0/16``.
    """

    timeout_s: float = 600.0
    connect_timeout_s: float = 10.0
    retries: int = 3
    first_pause_s: float = 0.5
    max_pause_s: float = 30.0
    max_request_bytes: int = 1_000_000
    max_response_bytes: int = 1_000_000
    concurrency: int = 64
    max_queue_s: float = 60.0
    allowed_networks: tuple[str, ...] = ()


class _AttemptFailedError(Exception):
    """One attempt gave no answer that can be graded.

    Attributes:
        error: What the call ends with if this was the last attempt.
        again: Whether another attempt may help.
    """

    def __init__(self, error: EndpointUnavailableError, *, again: bool) -> None:
        super().__init__(str(error))
        self.error = error
        self.again = again


class HttpEndpointCaller:
    """Implements `graders.ports.EndpointCaller`; belongs to one event loop."""

    def __init__(
        self,
        config: EndpointConfig,
        *,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Call within the limits of ``config``; the client is built on the first call.

        Raises:
            ValueError: One of ``allowed_networks`` is no network.
        """
        self._config = config
        self._rule = AddressRule(config.allowed_networks)
        self._sleep = sleep
        self._pace = Pace(clock)
        self._places = asyncio.Semaphore(config.concurrency)
        self._transport: Transport | None = None

    async def call(self, call: EndpointCall) -> EndpointReply:
        """Return the body of a 2xx answer.

        Raises:
            EndpointUnavailableError: There was none after all attempts.
            InputTooLongError: Sample and item are larger than an endpoint takes.
            OverloadedError: The definition's ``rate_limit`` has no place soon enough.
        """
        config = self._config
        host = _host(call.url)
        _check_headers(call.headers, host)
        trace_id = f"trace_{secrets.token_hex(16)}"
        body = _encode({**call.body, "trace_id": trace_id})
        if len(body) > config.max_request_bytes:
            message = f"the request has {len(body)} bytes; {config.max_request_bytes} are allowed"
            raise InputTooLongError(message)
        attempt = 0
        while True:
            await self._wait_for_place(call, host)
            try:
                return await self._attempt(call, host, body)
            except _AttemptFailedError as failure:
                pause = pause_s(
                    attempt,
                    first_s=config.first_pause_s,
                    most_s=config.max_pause_s,
                    retry_after_s=failure.error.retry_after_s,
                )
                if not failure.again or attempt == config.retries or pause > config.max_pause_s:
                    _log(failure.error, host, trace_id, attempt + 1)
                    raise failure.error from failure.__cause__
            await self._sleep(pause)
            attempt += 1

    async def _wait_for_place(self, call: EndpointCall, host: str) -> None:
        if call.rate_limit is None:
            return
        most = self._config.max_queue_s
        wait = self._pace.wait_s(call.url, call.rate_limit, most_s=most)
        if wait is None:
            message = f"calls to {host} are limited to {call.rate_limit:g}/s, and too many wait"
            raise EndpointOverloadedError(message, retry_after_s=most)
        if wait:
            await self._sleep(wait)

    async def _attempt(self, call: EndpointCall, host: str, body: bytes) -> EndpointReply:
        """Return the answer of one exchange."""
        transport = self._open()
        headers = {**_HEADERS, **{name.lower(): value for name, value in call.headers.items()}}
        try:
            async with self._places:
                answer = await transport.post(call.url, headers, body)
        except AddressRefusedError as error:
            message = f"{host} is not at a public address, and its network is not allowed"
            raise _failed(message, "address_refused", retryable=False) from error
        except InvalidUrlError as error:
            raise _failed(f"{host} cannot be called", "invalid_url", retryable=False) from error
        except TimeoutError as error:
            message = f"{host} did not answer within {self._config.timeout_s:g} s"
            raise _failed(message, "timeout") from error
        except ConnectionFailedError as error:
            raise _failed(f"no answer from {host}: {error}", "connection", again=True) from error
        return _read(answer, host, self._config.max_response_bytes)

    def _open(self) -> Transport:
        if self._transport is None:
            from service.endpoint_caller.transport import (  # noqa: PLC0415 - brings aiohttp
                HttpTransport,
            )

            self._transport = HttpTransport(
                self._rule,
                timeout_s=self._config.timeout_s,
                connect_timeout_s=self._config.connect_timeout_s,
                max_bytes=self._config.max_response_bytes,
            )
        return self._transport

    async def close(self) -> None:
        """Close every connection; the next call would open them again."""
        transport, self._transport = self._transport, None
        if transport is not None:
            await transport.close()


def _host(url: str) -> str:
    """Return the host that messages and logs name.

    Raises:
        EndpointUnavailableError: The URL is no absolute http or https URL.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        message = "the endpoint's URL is no http or https URL"
        raise EndpointUnavailableError(message, retryable=False, kind="invalid_url")
    return parts.hostname


def _check_headers(headers: Mapping[str, str], host: str) -> None:
    own = sorted(name for name in headers if name.lower() in _OWN_HEADERS)
    if own:
        message = f"the call of {host} cannot set the header {own[0]}"
        raise EndpointUnavailableError(message, retryable=False, kind="invalid_header")


def _read(answer: Answer, host: str, max_bytes: int) -> EndpointReply:
    """Return the body of a good answer.

    Raises:
        _AttemptFailedError: The answer is no good one.
    """
    status = answer.status
    if _SUCCESS <= status < _REDIRECT:
        if answer.body is None:
            message = f"{host} answered more than {max_bytes} bytes"
            raise _failed(message, "answer_too_large", retryable=False)
        return EndpointReply(body=answer.body)
    kind, message = f"http_{status}", f"{host} answered {status}"
    if _REDIRECT <= status < _CLIENT_ERROR:
        raise _failed(f"{message}, a redirect, which is not followed", kind, retryable=False)
    again = status == _TOO_MANY or status >= _SERVER_ERROR
    wait = retry_after_s(answer.retry_after, now_s=time.time()) if again else None
    raise _failed(message, kind, retryable=again, again=again, retry_after_s=wait)


def _failed(
    message: str,
    kind: str,
    *,
    retryable: bool = True,
    again: bool = False,
    retry_after_s: float | None = None,
) -> _AttemptFailedError:
    """Return a failed attempt; ``again`` asks for another one now, ``retryable`` for one later."""
    error = EndpointUnavailableError(
        message, retryable=retryable, retry_after_s=retry_after_s, kind=kind
    )
    return _AttemptFailedError(error, again=again)


def _log(error: EndpointUnavailableError, host: str, trace_id: str, attempts: int) -> None:
    fields = {"host": host, "kind": error.kind, "trace_id": trace_id, "attempts": attempts}
    event(logger, logging.WARNING, "endpoint grader failed", fields)
