"""The store in Redis: shared by all replicas, and never in the way when Redis is not well.

Keys are ``<prefix>:{<key>}:v`` (value), ``:l`` (lock), ``:o:<token>`` (what a leader handed over
without keeping it) and channel ``:c``. The braces keep the keys of one question in one slot of a
Cluster. Budgets share one tag, ``{budget}``, because one reservation touches several of them. They
and published definitions have no expiry: a full Redis with ``volatile-lru`` spares them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from time import monotonic
from typing import Any, Final

from service.stores.batch import AWAY, Batcher
from service.stores.channels import Channels
from service.stores.config import StoreConfig
from service.stores.connect import connect
from service.stores.documents import Documents
from service.stores.port import Claim, Reservation, Reserved, StoreStats
from service.stores.redis_documents import RedisDocuments
from service.stores.scripts import CLAIM, FINISH, PEEK, RELEASE, RENEW, RESERVE, SETTLE

OUTCOME_KEEP_S: Final = 3.0
"""Seconds that an outcome which is not kept (an error, a refusal) stays for those who waited."""
ACCOUNT_KEEP_S: Final = 3 * 86_400.0
"""Seconds from the first use of a day's account to its removal."""
POLL_S: Final = 0.25
"""Seconds between looks when Redis gives no subscription."""
_LEASE_SLACK_S: Final = 0.05


class RedisStore:
    """Store in Redis, standalone, behind Sentinel or in a Cluster.

    Args:
        config: Address and bounds.
    """

    def __init__(self, config: StoreConfig) -> None:
        """Prepare the client; nothing connects before the first command."""
        self.stats = StoreStats()
        self._prefix = config.prefix
        self._timeout_s = config.timeout_s
        self._connected = connect(config)
        self._batch = Batcher(
            self._connected,
            self.stats,
            timeout_s=config.timeout_s,
            failures_to_open=config.failures_to_open,
            probe_s=config.probe_s,
        )
        self.documents: Documents = RedisDocuments(self._batch, config.prefix)
        self._channels = Channels(self._connected, timeout_s=config.timeout_s)

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return a value a key, in order; None where Redis has none or does not answer."""
        before, after = f"{self._prefix}:{{", "}:v"
        answers = await self._batch.look_up([f"{before}{key}{after}" for key in keys])
        return [answer if type(answer) is bytes else None for answer in answers]

    async def put(self, key: str, value: bytes, *, ttl_s: float) -> None:
        """Keep ``value``; a Redis that refuses (full, read-only) is counted and forgotten."""
        await self._batch.step("put", "SET", self._key(key, "v"), value, "PX", _ms(ttl_s))

    async def claim(self, key: str, token: str, *, lease_s: float) -> Claim:
        """Return the value, the right to ask, or who has it."""
        names = (self._key(key, "v"), self._key(key, "l"))
        return _claim(await self._eval("claim", CLAIM, names, token, _ms(lease_s)))

    async def follow(self, key: str, owner: str, *, wait_s: float) -> bytes | None:
        """Return what ``owner`` publishes, looking again whenever its lease has run out."""
        end = monotonic() + wait_s
        channel = self._key(key, "c")
        inbox = await self._channels.join(channel)
        try:
            while True:
                # Looking after subscribing closes the gap in which the owner may have finished.
                seen = await self._peek(key, owner)
                if seen.state != "held":
                    return seen.value if seen.state == "found" else None
                left = end - monotonic()
                if left <= 0:
                    return None
                if inbox is None:
                    await asyncio.sleep(min(left, POLL_S))
                    continue
                pause = min(left, seen.lease_s + _LEASE_SLACK_S)
                done, _ = await asyncio.wait({inbox}, timeout=pause)
                if done:
                    return inbox.result() or None
        finally:
            if inbox is not None:
                self._channels.leave(channel, inbox)

    async def heartbeat(self, leases: Sequence[tuple[str, str]], *, lease_s: float) -> None:
        """Renew all leases in one round trip."""
        await asyncio.gather(
            *(
                self._eval("renew", RENEW, (self._key(key, "l"),), token, _ms(lease_s))
                for key, token in leases
            )
        )

    async def finish(self, key: str, token: str, value: bytes, *, ttl_s: float) -> None:
        """Keep ``value`` if asked to, publish it, and end the lease: one step."""
        names = (self._key(key, "v"), self._key(key, "l"), self._key(key, f"o:{token}"))
        arguments = (token, value, _ms(ttl_s), self._key(key, "c"), _ms(OUTCOME_KEEP_S))
        await self._eval("finish", FINISH, names, *arguments)

    async def release(self, key: str, token: str) -> None:
        """End the lease and wake the followers empty-handed."""
        names = (self._key(key, "l"),)
        await self._eval("release", RELEASE, names, token, self._key(key, "c"))

    async def reserve(self, reservation: Reservation) -> Reserved:
        """Set money aside in every counter, or in none."""
        if not reservation.counters:
            return Reserved("granted")
        answer = await self._eval(
            "reserve",
            RESERVE,
            self._accounts(reservation),
            reservation.amount,
            f"{reservation.amount}:{reservation.id}",
            _ms(reservation.hold_s),
            _ms(ACCOUNT_KEEP_S),
            *(limit for _, limit in reservation.counters),
        )
        match answer:
            case [0, 0]:
                return _GRANTED
            case [int(which), int(taken)] if 0 < which <= len(reservation.counters):
                return Reserved("spent", reservation.counters[which - 1][0], taken)
        return Reserved("away")

    async def settle(self, reservation: Reservation, *, spent: int) -> None:
        """Replace the reservation by what was spent."""
        await self._eval(
            "settle",
            SETTLE,
            self._accounts(reservation),
            f"{reservation.amount}:{reservation.id}",
            spent,
            _ms(ACCOUNT_KEEP_S),
        )

    async def spent(self, counters: Sequence[str]) -> list[int | None]:
        """Return nanodollars spent by counter; None where Redis does not say."""
        answers = await asyncio.gather(
            *(self._batch.step("spent", "HGET", self._account(name), "spent") for name in counters)
        )
        return [_number(answer) for answer in answers]

    async def check(self) -> str | None:
        """Return None when Redis answers, else which way it fails."""
        failure = await self._batch.ping()
        return None if failure is None else f"Redis does not answer ({failure})"

    async def close(self) -> None:
        """Send what is on its way, then disconnect."""
        await self._channels.close()
        await self._batch.close()
        for client in (self._connected.client, *self._connected.also_close):
            await client.aclose()

    async def _peek(self, key: str, owner: str) -> Claim:
        names = (self._key(key, "v"), self._key(key, "l"), self._key(key, f"o:{owner}"))
        return _claim(await self._eval("peek", PEEK, names, owner))

    async def _eval(
        self, operation: str, script: str, keys: Sequence[str], *arguments: str | bytes | int
    ) -> Any:  # noqa: ANN401 - what the script returns
        return await self._batch.step(operation, "EVAL", script, len(keys), *keys, *arguments)

    def _key(self, key: str, part: str) -> str:
        return f"{self._prefix}:{{{key}}}:{part}"

    def _account(self, name: str) -> str:
        return f"{self._prefix}:{{budget}}:{name}"

    def _accounts(self, reservation: Reservation) -> list[str]:
        """Return the register of accounts, then account and reservations of every counter."""
        names = [self._account(name) for name, _ in reservation.counters]
        register = f"{self._prefix}:{{budget}}"
        return [register, *(key for name in names for key in (name, f"{name}:held"))]


_GRANTED: Final = Reserved("granted")


def _ms(seconds: float) -> int:
    return max(0, round(seconds * 1000))


def _number(answer: object) -> int | None:
    if answer is AWAY:
        return None
    if answer is None:
        return 0
    return int(answer) if isinstance(answer, bytes) and answer.lstrip(b"-").isdigit() else None


def _claim(answer: object) -> Claim:
    """Return what a claiming script said; anything unexpected counts as no answer."""
    match answer:
        case [1, bytes(value)]:
            return Claim("found", value=value)
        case [2]:
            return Claim("granted")
        case [3, bytes(owner), int(left_ms)]:
            return Claim("held", owner=owner.decode("utf-8", "replace"), lease_s=left_ms / 1000)
        case _:
            return Claim("away")
