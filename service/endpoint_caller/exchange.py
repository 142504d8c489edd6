"""What passes between the caller and its transport: one answer, or the reason why there is none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import msgspec


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of an endpoint.

    Attributes:
        status: HTTP status.
        retry_after: The header ``Retry-After``.
        body: None where it is larger than allowed.
    """

    status: int
    retry_after: str | None = None
    body: bytes | None = b""


class ConnectionFailedError(Exception):
    """No answer: the name, the connection, TLS or the protocol failed."""


class InvalidUrlError(Exception):
    """The URL cannot be called."""


class Transport(Protocol):
    """Exchanges one request for one answer."""

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """Return the answer to ``body``; a redirect is an answer like any other.

        Raises:
            AddressRefusedError: The host is at an address that may not be reached.
            ConnectionFailedError: There was no answer.
            InvalidUrlError: The URL cannot be called.
            TimeoutError: The answer was not complete in time.
        """
        ...

    async def close(self) -> None:
        """Close every connection."""
        ...
