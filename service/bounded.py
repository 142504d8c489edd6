"""Reads what a foreign HTTP server sends, up to a bound."""

from __future__ import annotations

import aiohttp


async def bounded_body(response: aiohttp.ClientResponse, max_bytes: int) -> bytes | None:
    """Return the body of ``response``; None for one larger than ``max_bytes``, which is dropped."""
    parts: list[bytes] = []
    size = 0
    async for part in response.content.iter_any():
        size += len(part)
        if size > max_bytes:
            response.close()  # the rest is not worth reading
            return None
        parts.append(part)
    return b"".join(parts)
