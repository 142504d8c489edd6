"""What the service needs from a store, and what a store counts.

A store keeps bytes under keys, lets one of many ask a question (get-or-lock), and counts money.
It never raises for a reason of its own: what it cannot do is answered with ``None``, `AWAY` or
`Claim` state ``away``, and counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final, Literal, Protocol

import msgspec

from service.stores.documents import Documents

ClaimState = Literal["found", "granted", "held", "away"]
NANO: Final = 1_000_000_000
"""Nanodollars in one dollar: whole numbers, exact in Lua up to nine million dollars."""


class Claim(msgspec.Struct, frozen=True):
    """The answer to get-or-lock.

    Attributes:
        state: ``found``: the value is there. ``granted``: the caller asks, the others wait.
            ``held``: somebody else asks. ``away``: the store cannot say; ask without it.
        value: The value, with ``found``.
        owner: Token of who asks, with ``held``.
        lease_s: Seconds for which ``owner`` is surely alive, with ``held``.
    """

    state: ClaimState
    value: bytes = b""
    owner: str = ""
    lease_s: float = 0.0


class Reservation(msgspec.Struct, frozen=True, kw_only=True):
    """Money set aside for one call.

    Attributes:
        id: Unique name of the reservation.
        counters: Name and limit (nanodollars) of every budget that must have room.
        amount: Nanodollars set aside.
        hold_s: Seconds after which it is given back if nobody settles, because its process died.
    """

    id: str
    counters: tuple[tuple[str, int], ...]
    amount: int
    hold_s: float


ReserveState = Literal["granted", "spent", "away"]


class Reserved(msgspec.Struct, frozen=True):
    """The answer to a reservation.

    Attributes:
        state: ``granted``; ``spent``: no room in ``counter``; ``away``: the store cannot say.
        counter: Name of the first budget without room.
        taken: Nanodollars that are spent or set aside in it.
    """

    state: ReserveState
    counter: str = ""
    taken: int = 0


class StoreStats(msgspec.Struct):
    """What a store has done since start; plain numbers for whoever exports them.

    Attributes:
        operations: Times by ``(operation, outcome)``; outcomes are ``ok``, ``timeout``,
            ``connection``, ``refused`` (an error reply such as OOM or READONLY), ``garbage`` (an
            answer of the wrong shape) and ``skipped`` (Redis is being left alone).
        round_trips: Batches sent to Redis.
        away: True while Redis is being left alone.
        opened: How often that began.
    """

    operations: Counter[tuple[str, str]] = msgspec.field(default_factory=Counter)
    round_trips: int = 0
    away: bool = False
    opened: int = 0


class Store(Protocol):
    """Shared memory of all replicas, or of one process.

    Attributes:
        stats: What it has done.
        documents: Published definitions.
    """

    stats: StoreStats
    documents: Documents

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return a value a key, in order; None where there is none or the store cannot say."""
        ...

    async def put(self, key: str, value: bytes, *, ttl_s: float) -> None:
        """Keep ``value`` for ``ttl_s`` seconds."""
        ...

    async def claim(self, key: str, token: str, *, lease_s: float) -> Claim:
        """Return the value, or the right to ask for it for ``lease_s`` seconds, or who has it."""
        ...

    async def follow(self, key: str, owner: str, *, wait_s: float) -> bytes | None:
        """Return what ``owner`` publishes; None when it is gone or gave up: claim again.

        Args:
            key: What was claimed.
            owner: Token that holds it.
            wait_s: Longest wait, in seconds, however alive the owner is.
        """
        ...

    async def heartbeat(self, leases: Sequence[tuple[str, str]], *, lease_s: float) -> None:
        """Renew the leases (key, token); one that was lost, as in a restart, is taken again."""
        ...

    async def finish(self, key: str, token: str, value: bytes, *, ttl_s: float) -> None:
        """Hand ``value`` to all followers and end the lease.

        Args:
            key: What was claimed.
            token: Who claimed it.
            value: What the followers get.
            ttl_s: Seconds to keep it; 0 for followers only.
        """
        ...

    async def release(self, key: str, token: str) -> None:
        """End the lease with nothing to hand over; followers claim again."""
        ...

    async def reserve(self, reservation: Reservation) -> Reserved:
        """Set money aside in every counter, or in none."""
        ...

    async def settle(self, reservation: Reservation, *, spent: int) -> None:
        """Replace the reservation by what was really spent (nanodollars)."""
        ...

    async def spent(self, counters: Sequence[str]) -> list[int | None]:
        """Return nanodollars spent by counter; None where the store cannot say."""
        ...

    async def check(self) -> str | None:
        """Return None when the store works, else one sentence that says what does not."""
        ...

    async def close(self) -> None:
        """Let go of connections; what is on its way is waited for briefly."""
        ...
