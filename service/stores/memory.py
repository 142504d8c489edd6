"""A store in this process: what there is without Redis, and the stand-in while Redis is away."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Sequence
from time import monotonic

from service.stores.config import StoreConfig
from service.stores.documents import Documents, MemoryDocuments
from service.stores.port import Claim, Reservation, Reserved, StoreStats


class _Lease:
    """Who asks, until when, and who waits for it."""

    __slots__ = ("ends", "handed_over", "token")

    def __init__(self, token: str, ends: float) -> None:
        self.token = token
        self.ends = ends
        self.handed_over: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()


class _Account:
    """Money of one counter."""

    __slots__ = ("held", "spent")

    def __init__(self) -> None:
        self.spent = 0
        self.held: dict[str, tuple[int, float]] = {}

    def committed(self, now: float) -> int:
        for name in [name for name, (_, ends) in self.held.items() if ends <= now]:
            del self.held[name]
        return self.spent + sum(amount for amount, _ in self.held.values())


class MemoryStore:
    """Bounded store in memory; the least recently used value goes first.

    Args:
        config: Bounds.
        clock: Monotonic seconds.
    """

    def __init__(
        self, config: StoreConfig | None = None, *, clock: Callable[[], float] = monotonic
    ) -> None:
        """Start empty."""
        config = config or StoreConfig()
        self.stats = StoreStats()
        self.documents: Documents = MemoryDocuments()
        self._max_entries = config.memory_entries
        self._max_bytes = config.memory_bytes
        self._clock = clock
        self._values: OrderedDict[str, tuple[bytes, float]] = OrderedDict()
        self._bytes = 0
        self._leases: dict[str, _Lease] = {}
        self._accounts: OrderedDict[str, _Account] = OrderedDict()

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return a value a key, in order."""
        return [self._get(key) for key in keys]

    async def put(self, key: str, value: bytes, *, ttl_s: float) -> None:
        """Keep ``value``, unless it alone is larger than the store."""
        self._drop(key)
        if len(value) > self._max_bytes:
            return
        self._values[key] = (value, self._clock() + ttl_s)
        self._bytes += len(value)
        while len(self._values) > self._max_entries or self._bytes > self._max_bytes:
            _, (oldest, _) = self._values.popitem(last=False)
            self._bytes -= len(oldest)

    async def claim(self, key: str, token: str, *, lease_s: float) -> Claim:
        """Return the value, the right to ask, or who has it."""
        value = self._get(key)
        if value is not None:
            return Claim("found", value=value)
        now = self._clock()
        lease = self._leases.get(key)
        if lease is not None and lease.ends > now:
            return Claim("held", owner=lease.token, lease_s=lease.ends - now)
        self._end(key, None)
        self._leases[key] = _Lease(token, now + lease_s)
        return Claim("granted")

    async def follow(self, key: str, owner: str, *, wait_s: float) -> bytes | None:
        """Return what ``owner`` hands over; None when it is gone."""
        end = self._clock() + wait_s
        lease = self._leases.get(key)
        while lease is not None and lease.token == owner and lease is self._leases.get(key):
            left = min(end, lease.ends) - self._clock()
            if left <= 0:
                return None
            done, _ = await asyncio.wait({lease.handed_over}, timeout=left)
            if done:
                return lease.handed_over.result()
        return self._get(key)

    async def heartbeat(self, leases: Sequence[tuple[str, str]], *, lease_s: float) -> None:
        """Renew the leases."""
        for key, token in leases:
            lease = self._leases.get(key)
            if lease is not None and lease.token == token:
                lease.ends = self._clock() + lease_s

    async def finish(self, key: str, token: str, value: bytes, *, ttl_s: float) -> None:
        """Hand ``value`` over and end the lease."""
        if ttl_s > 0:
            await self.put(key, value, ttl_s=ttl_s)
        if self._owns(key, token):
            self._end(key, value)

    async def release(self, key: str, token: str) -> None:
        """End the lease with nothing to hand over."""
        if self._owns(key, token):
            self._end(key, None)

    async def reserve(self, reservation: Reservation) -> Reserved:
        """Set money aside in every counter, or in none."""
        now = self._clock()
        for name, limit in reservation.counters:
            account = self._accounts.get(name)
            taken = account.committed(now) if account else 0
            if taken + reservation.amount > limit:
                return Reserved("spent", name, taken)
        for name, _ in reservation.counters:
            account = self._account(name)
            account.held[reservation.id] = (reservation.amount, now + reservation.hold_s)
        return Reserved("granted")

    async def settle(self, reservation: Reservation, *, spent: int) -> None:
        """Replace the reservation by what was spent."""
        for name, _ in reservation.counters:
            account = self._account(name)
            account.held.pop(reservation.id, None)
            account.spent += spent

    async def spent(self, counters: Sequence[str]) -> list[int | None]:
        """Return nanodollars spent by counter."""
        return [account.spent if (account := self._accounts.get(name)) else 0 for name in counters]

    async def check(self) -> str | None:
        """Return None: memory is always there."""
        return None

    async def close(self) -> None:
        """Send the followers away."""
        for key in list(self._leases):
            self._end(key, None)

    def _get(self, key: str) -> bytes | None:
        found = self._values.get(key)
        if found is None:
            return None
        if found[1] <= self._clock():
            self._drop(key)
            return None
        self._values.move_to_end(key)
        return found[0]

    def _drop(self, key: str) -> None:
        found = self._values.pop(key, None)
        if found is not None:
            self._bytes -= len(found[0])

    def _owns(self, key: str, token: str) -> bool:
        lease = self._leases.get(key)
        return lease is not None and lease.token == token

    def _end(self, key: str, value: bytes | None) -> None:
        lease = self._leases.pop(key, None)
        if lease is not None and not lease.handed_over.done():
            lease.handed_over.set_result(value)

    def _account(self, name: str) -> _Account:
        # Names hold the day, so old ones only need to make room.
        while len(self._accounts) >= self._max_entries and name not in self._accounts:
            self._accounts.popitem(last=False)
        return self._accounts.setdefault(name, _Account())
