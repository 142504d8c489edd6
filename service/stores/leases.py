"""Leases that this process holds, renewed together for as long as it works under them."""

from __future__ import annotations

import asyncio

from service.stores.port import Store


class Leases:
    """Renews leases that were granted, until they are dropped.

    Args:
        store: Where they were claimed.
        lease_s: Seconds after which a holder that has died loses them.
    """

    def __init__(self, store: Store, *, lease_s: float) -> None:
        """Start with none."""
        self._store = store
        self._lease_s = lease_s
        self._held: dict[str, str] = {}
        self._heart: asyncio.Task[None] | None = None

    def keep(self, key: str, token: str) -> None:
        """Renew this lease from now on."""
        self._held[key] = token
        if self._heart is None or self._heart.done():
            self._heart = asyncio.create_task(self._beat())

    def drop(self, key: str) -> None:
        """Renew it no more; ending it is up to the caller."""
        del self._held[key]

    async def close(self) -> None:
        """Renew nothing any more."""
        if self._heart is not None:
            self._heart.cancel()
            await asyncio.gather(self._heart, return_exceptions=True)

    async def _beat(self) -> None:
        while self._held:
            await asyncio.sleep(self._lease_s / 3)
            if self._held:
                await self._store.heartbeat(list(self._held.items()), lease_s=self._lease_s)
