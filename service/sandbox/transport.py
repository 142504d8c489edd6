"""HTTP to a runner over TCP or a unix socket: bounded answers, nothing followed.

Built on aiohttp, which is imported with this module; `remote` imports it on the first call.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import aiohttp
import msgspec

from service.bounded import bounded_body
from service.sandbox.messages import MEDIA_TYPE, READY_PATH, RUN_PATH

if TYPE_CHECKING:
    from service.sandbox.addresses import UnixAddress
    from service.sandbox.config import RemoteConfig


class ConnectionFailedError(Exception):
    """No whole answer: the name, the connection, TLS or the protocol failed."""


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """What a runner, or something before it, answered.

    Attributes:
        status: HTTP status.
        media_type: Of the body, without parameters.
        body: None where it is larger than allowed.
    """

    status: int
    media_type: str
    body: bytes | None


class RunnerTransport:
    """Keeps connections to one runner; belongs to the event loop that made it."""

    def __init__(self, config: RemoteConfig, unix: UnixAddress | None) -> None:
        """Connect to ``unix``, or else to the URL of ``config``."""
        self._base = "http://runner" if unix else config.url.rstrip("/")
        self._max_bytes = config.max_answer_bytes
        self._timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=config.connect_timeout_s, sock_read=config.silence_s
        )
        self._session = aiohttp.ClientSession(
            connector=aiohttp.UnixConnector(unix.path, limit=config.connections)
            if unix
            else aiohttp.TCPConnector(limit=config.connections),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            headers={"Accept-Encoding": "identity", "User-Agent": "gradekeeper"},
        )

    async def run(self, question: bytes, token: bytes | None) -> Reply:
        """Return the reply to ``question``.

        Raises:
            ConnectionFailedError: There was none, or only a part.
            TimeoutError: Nothing was heard for too long.
        """
        headers = {"Content-Type": MEDIA_TYPE, **_presenting(token)}
        return await self._exchange("POST", RUN_PATH, question, headers, self._timeout)

    async def ready(self, token: bytes | None, timeout_s: float) -> Reply:
        """Return what the runner says about itself, and about ``token``.

        Raises:
            ConnectionFailedError, TimeoutError: As `run`.
        """
        timeout = aiohttp.ClientTimeout(total=timeout_s)
        return await self._exchange("GET", READY_PATH, None, _presenting(token), timeout)

    async def _exchange(
        self,
        method: str,
        path: str,
        body: bytes | None,
        headers: dict[str, str],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - aiohttp's own, which tells silence from length
    ) -> Reply:
        try:
            async with self._session.request(
                method,
                self._base + path,
                data=None if body is None else io.BytesIO(body),
                headers=headers,
                timeout=timeout,
                allow_redirects=False,
            ) as response:
                return Reply(
                    status=response.status,
                    media_type=response.content_type,
                    body=await bounded_body(response, self._max_bytes),
                )
        except TimeoutError as error:
            if isinstance(error, aiohttp.ConnectionTimeoutError):
                raise ConnectionFailedError(type(error).__name__) from error
            raise
        except (aiohttp.ClientError, OSError) as error:
            raise ConnectionFailedError(type(error).__name__) from error

    async def close(self) -> None:
        """Close every connection."""
        await self._session.close()


def _presenting(token: bytes | None) -> dict[str, str]:
    return {} if token is None else {"Authorization": f"Bearer {token.decode()}"}
