"""One HTTP exchange with an endpoint: checked addresses, bounded answers, nothing followed.

Built on aiohttp, which is imported with this module; `caller` imports it on the first call.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping

import aiohttp
from aiohttp.abc import ResolveResult
from aiohttp.resolver import ThreadedResolver

from service.bounded import bounded_body
from service.endpoint_caller.addresses import AddressRule
from service.endpoint_caller.exchange import Answer, ConnectionFailedError, InvalidUrlError


class HttpTransport:
    """Keeps connections to endpoints; belongs to the event loop that made it."""

    def __init__(
        self, rule: AddressRule, *, timeout_s: float, connect_timeout_s: float, max_bytes: int
    ) -> None:
        """Connect to what ``rule`` allows; read at most ``max_bytes`` of an answer."""
        self._max_bytes = max_bytes
        self._rule = rule
        connector = aiohttp.TCPConnector(
            resolver=_CheckedResolver(rule),
            use_dns_cache=False,
            family=socket.AF_UNSPEC,
            limit=0,
            socket_factory=self._socket,
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            timeout=aiohttp.ClientTimeout(total=timeout_s, sock_connect=connect_timeout_s),
            headers={"Accept-Encoding": "identity", "User-Agent": "gradekeeper"},
        )

    def _socket(self, info: tuple[int, int, int, str, tuple[str, ...]]) -> socket.socket:
        """Return a socket for an address about to be connected to, once it is checked."""
        family, kind, proto, _, address = info
        self._rule.check(address[0])
        return socket.socket(family, kind, proto)

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """Return the answer to ``body``; see `exchange.Transport`."""
        try:
            async with self._session.post(
                url, data=body, headers=headers, allow_redirects=False
            ) as response:
                return Answer(
                    status=response.status,
                    retry_after=response.headers.get("Retry-After"),
                    body=await bounded_body(response, self._max_bytes),
                )
        except aiohttp.InvalidURL as error:
            raise InvalidUrlError from error
        except TimeoutError as error:
            if isinstance(error, aiohttp.ClientConnectionError):  # while connecting
                raise ConnectionFailedError(type(error).__name__) from error
            raise
        except (aiohttp.ClientError, OSError) as error:
            raise ConnectionFailedError(type(error).__name__) from error

    async def close(self) -> None:
        """Close every connection."""
        await self._session.close()


class _CheckedResolver(ThreadedResolver):
    """Resolves names; a name with one address that may not be reached is refused whole."""

    def __init__(self, rule: AddressRule) -> None:
        super().__init__()
        self._rule = rule

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return the addresses of ``host``."""
        results = await super().resolve(host, port, family)
        for result in results:
            self._rule.check(result["host"])
        return results
