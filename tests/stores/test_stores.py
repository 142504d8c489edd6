"""What both stores promise: values, leases, followers, money."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

from service.stores import MemoryStore, RedisStore, Reservation, Store, StoreConfig

pytestmark = pytest.mark.integration


def reservation(name: str, amount: int, limit: int, *, hold_s: float = 60.0) -> Reservation:
    return Reservation(id=name, counters=(("day:a", limit),), amount=amount, hold_s=hold_s)


class TestValues:
    async def test_values_come_back_in_the_order_asked(self, store: Store) -> None:
        await asyncio.gather(*(store.put(f"k{i}", b"%d" % i, ttl_s=60) for i in range(3)))
        assert await store.get_many(["k2", "nothing", "k0", "k2"]) == [b"2", None, b"0", b"2"]

    async def test_values_end(self, store: Store) -> None:
        await store.put("k", b"v", ttl_s=0.05)
        await asyncio.sleep(0.1)
        assert await store.get_many(["k"]) == [None]

    async def test_nothing_is_asked_for_nothing(self, store: Store) -> None:
        assert await store.get_many([]) == []
        assert await store.spent([]) == []
        assert await store.check() is None


class TestLeases:
    async def test_one_of_many_is_granted(self, store: Store) -> None:
        claims = await asyncio.gather(*(store.claim("q", f"t{i}", lease_s=5) for i in range(20)))
        assert [claim.state for claim in claims] == ["granted"] + ["held"] * 19
        assert {claim.owner for claim in claims[1:]} == {"t0"}
        assert all(0 < claim.lease_s <= 5 for claim in claims[1:])

    async def test_followers_get_what_the_leader_hands_over(self, store: Store) -> None:
        await store.claim("q", "leader", lease_s=5)
        followers = [asyncio.create_task(store.follow("q", "leader", wait_s=5)) for _ in range(3)]
        await asyncio.sleep(0.1)
        await store.finish("q", "leader", b"answer", ttl_s=60)
        assert await asyncio.gather(*followers) == [b"answer"] * 3
        assert (await store.claim("q", "late", lease_s=5)).value == b"answer"

    async def test_outcome_that_is_not_kept_reaches_followers_only(self, store: Store) -> None:
        await store.claim("q", "leader", lease_s=5)
        follower = asyncio.create_task(store.follow("q", "leader", wait_s=5))
        await asyncio.sleep(0.1)
        await store.finish("q", "leader", b"failed", ttl_s=0)
        assert await follower == b"failed"
        assert (await store.claim("q", "next", lease_s=5)).state == "granted"

    async def test_leader_that_gives_up_wakes_followers_at_once(self, store: Store) -> None:
        await store.claim("q", "leader", lease_s=5)
        follower = asyncio.create_task(store.follow("q", "leader", wait_s=5))
        await asyncio.sleep(0.1)
        began = time.monotonic()
        await store.release("q", "leader")
        assert await follower is None
        assert time.monotonic() - began < 3
        assert (await store.claim("q", "next", lease_s=5)).state == "granted"

    async def test_dead_leader_is_waited_for_no_longer_than_its_lease(self, store: Store) -> None:
        await store.claim("q", "leader", lease_s=0.3)
        began = time.monotonic()
        assert await store.follow("q", "leader", wait_s=5) is None
        assert 0.2 < time.monotonic() - began < 3

    async def test_heartbeat_keeps_a_leader_alive(self, store: Store) -> None:
        await store.claim("q", "leader", lease_s=0.6)
        for _ in range(4):
            await asyncio.sleep(0.2)
            await store.heartbeat([("q", "leader")], lease_s=0.6)
        assert (await store.claim("q", "other", lease_s=1)).state == "held"

    async def test_patience_of_a_follower_ends(self, store: Store) -> None:
        await store.claim("q", "leader", lease_s=30)
        assert await store.follow("q", "leader", wait_s=0.1) is None

    async def test_only_the_owner_ends_a_lease(self, store: Store) -> None:
        await store.claim("q", "leader", lease_s=30)
        await store.release("q", "somebody")
        await store.heartbeat([("q", "somebody")], lease_s=0.01)
        assert (await store.claim("q", "other", lease_s=1)).owner == "leader"

    async def test_late_follower_finds_an_answer_that_came_meanwhile(self, store: Store) -> None:
        await store.claim("q", "leader", lease_s=5)
        await store.finish("q", "leader", b"answer", ttl_s=60)
        assert await store.follow("q", "leader", wait_s=5) == b"answer"


class TestMoney:
    async def test_concurrent_reservations_never_pass_the_limit(self, store: Store) -> None:
        asked = [reservation(f"r{i}", 10, 100) for i in range(40)]
        answers = await asyncio.gather(*map(store.reserve, asked))
        assert [answer.state for answer in answers].count("granted") == 10
        assert {answer.counter for answer in answers if answer.state == "spent"} == {"day:a"}

    async def test_settling_replaces_the_reservation(self, store: Store) -> None:
        first = reservation("r1", 90, 100)
        assert (await store.reserve(first)).state == "granted"
        assert (await store.reserve(reservation("r2", 20, 100))).state == "spent"
        await store.settle(first, spent=30)
        assert await store.spent(["day:a", "day:b"]) == [30, 0]
        assert (await store.reserve(reservation("r3", 70, 100))).state == "granted"
        assert (await store.reserve(reservation("r4", 1, 100))).state == "spent"

    async def test_reservation_of_a_dead_process_comes_back(self, store: Store) -> None:
        await store.reserve(reservation("r1", 100, 100, hold_s=0.6))
        assert (await store.reserve(reservation("r2", 100, 100))).state == "spent"
        await asyncio.sleep(0.8)
        assert (await store.reserve(reservation("r2", 100, 100))).state == "granted"

    async def test_all_counters_or_none(self, store: Store) -> None:
        both = Reservation(
            id="r", counters=(("day:wide", 1000), ("day:narrow", 5)), amount=10, hold_s=60
        )
        assert (await store.reserve(both)).counter == "day:narrow"
        room = Reservation(id="s", counters=(("day:wide", 1000),), amount=1000, hold_s=60)
        assert (await store.reserve(room)).state == "granted"

    async def test_no_counter_is_no_limit(self, store: Store) -> None:
        free = Reservation(id="r", counters=(), amount=10, hold_s=60)
        assert (await store.reserve(free)).state == "granted"


class TestMemory:
    async def test_least_recently_used_value_goes_first(self) -> None:
        store = MemoryStore(StoreConfig(memory_entries=2, memory_bytes=1000))
        for key in ("a", "b"):
            await store.put(key, b"x", ttl_s=60)
        await store.get_many(["a"])
        await store.put("c", b"x", ttl_s=60)
        assert await store.get_many(["a", "b", "c"]) == [b"x", None, b"x"]

    async def test_bytes_are_bounded(self) -> None:
        store = MemoryStore(StoreConfig(memory_entries=100, memory_bytes=10))
        for key in "abcdef":
            await store.put(key, b"1234", ttl_s=60)
        assert [value is not None for value in await store.get_many("abcdef")] == [False] * 4 + [
            True
        ] * 2
        await store.put("huge", b"x" * 11, ttl_s=60)
        assert await store.get_many(["huge"]) == [None]

    async def test_accounts_are_bounded(self) -> None:
        store = MemoryStore(StoreConfig(memory_entries=2))
        for name in "abc":
            one = Reservation(id=name, counters=((name, 9),), amount=1, hold_s=9)
            await store.settle(one, spent=1)
        assert await store.spent(["a", "b", "c"]) == [0, 1, 1]

    async def test_closing_sends_followers_away(self) -> None:
        store = MemoryStore()
        await store.claim("q", "leader", lease_s=30)
        follower = asyncio.create_task(store.follow("q", "leader", wait_s=30))
        await asyncio.sleep(0)
        await store.close()
        assert await follower is None


class TestAccountsInRedis:
    async def test_full_cache_forgets_no_budget(self, redis_store: RedisStore) -> None:
        """A Redis with ``volatile-lru`` evicts whatever expires, however short-lived the rest."""
        await redis_store.reserve(reservation("r1", 5, 100))
        await redis_store.settle(reservation("r2", 5, 100), spent=7)
        ttls = await keys_and_ttls(redis_store)
        assert set(ttls.values()) == {-1}
        await redis_store.put("k", b"v", ttl_s=60)
        await redis_store.claim("q", "t", lease_s=60)
        await redis_store.finish("p", "t", b"v", ttl_s=0)
        others = (await keys_and_ttls(redis_store)).items() - ttls.items()
        assert len(others) == 3
        assert all(ttl > 0 for _, ttl in others)

    async def test_old_accounts_are_removed_by_the_next_call(
        self, redis_store: RedisStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as brief:
            brief.setattr("service.stores.redis.ACCOUNT_KEEP_S", 0.2)
            old = Reservation(id="r1", counters=(("monday", 100),), amount=5, hold_s=60)
            await redis_store.reserve(old)
            settled = Reservation(id="r2", counters=(("sunday", 100),), amount=5, hold_s=60)
            await redis_store.settle(settled, spent=7)
        await asyncio.sleep(0.3)
        new = Reservation(id="r3", counters=(("tuesday", 100),), amount=5, hold_s=60)
        await redis_store.reserve(new)
        assert set(await keys_and_ttls(redis_store)) == {
            b"gradekeeper:{budget}",
            b"gradekeeper:{budget}:tuesday",
            b"gradekeeper:{budget}:tuesday:held",
        }


async def keys_and_ttls(store: RedisStore) -> dict[bytes, int]:
    """Return milliseconds to live by key; -1 for ever."""
    client: Any = store._connected.client
    return {key: await client.pttl(key) async for key in client.scan_iter()}


class TestCoalescing:
    async def test_look_ups_of_one_turn_are_one_command(
        self, redis_store: RedisStore, redis_server: Callable[..., object]
    ) -> None:
        await redis_store.get_many(["warm"])
        before = redis_store.stats.round_trips
        await asyncio.gather(*(redis_store.get_many([f"k{i % 50}"]) for i in range(200)))
        assert redis_store.stats.round_trips - before == 1

    async def test_large_batches_are_split(self, redis_store: RedisStore) -> None:
        await redis_store.put("k4321", b"v", ttl_s=60)
        values = await redis_store.get_many([f"k{i}" for i in range(5000)])
        assert [i for i, value in enumerate(values) if value] == [4321]

    async def test_steps_of_one_turn_are_one_round_trip(self, redis_store: RedisStore) -> None:
        await redis_store.put("warm", b"v", ttl_s=1)
        before = redis_store.stats.round_trips
        await asyncio.gather(*(redis_store.put(f"k{i}", b"v", ttl_s=60) for i in range(100)))
        assert redis_store.stats.round_trips - before == 1
