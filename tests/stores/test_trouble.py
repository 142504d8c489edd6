"""Redis that is slow, gone, full, read-only or lying: nobody waits long, nothing is raised."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import pytest

from service.stores import RedisStore, Reservation, StoreConfig
from tests.stores.server import RedisServer, free_port

pytestmark = pytest.mark.integration
MONEY = Reservation(id="r", counters=(("d", 100),), amount=1, hold_s=60)


@contextlib.asynccontextmanager
async def opened(server: RedisServer, **options: float) -> AsyncIterator[RedisStore]:
    store = RedisStore(StoreConfig(url=server.url, probe_s=0.05, **options))  # type: ignore[arg-type]
    try:
        yield store
    finally:
        await store.close()


async def every_operation(store: RedisStore) -> list[object]:
    """Return what each operation answers when Redis cannot."""
    await store.put("k", b"v", ttl_s=60)
    await store.finish("k", "t", b"v", ttl_s=60)
    await store.release("k", "t")
    await store.heartbeat([("k", "t")], lease_s=1)
    await store.settle(MONEY, spent=1)
    return [
        await store.get_many(["a", "b"]),
        (await store.claim("k", "t", lease_s=1)).state,
        await store.follow("k", "t", wait_s=1),
        (await store.reserve(MONEY)).state,
        await store.spent(["d"]),
    ]


NOTHING = [[None, None], "away", None, "away", [None]]


async def test_nobody_listening_is_answered_quickly_and_counted() -> None:
    store = RedisStore(StoreConfig(url=f"redis://127.0.0.1:{free_port()}", probe_s=0.05))
    began = time.monotonic()
    assert await every_operation(store) == NOTHING
    assert time.monotonic() - began < 3
    assert store.stats.away
    assert store.stats.operations["put", "connection"] == 1
    assert "connection" in (await store.check() or "")
    await store.close()


async def test_frozen_redis_holds_up_only_until_it_is_left_alone() -> None:
    with RedisServer() as server:
        async with opened(server) as store:
            await store.put("k", b"v", ttl_s=60)
            server.freeze()
            try:
                began = time.monotonic()
                assert await every_operation(store) == NOTHING
                # Three bounded waits open the circuit, the rest is not even tried.
                assert time.monotonic() - began < 3
                began = time.monotonic()
                assert await store.get_many(["k"]) == [None]
                assert time.monotonic() - began < 0.1
                assert store.stats.operations["get", "skipped"] == 2
            finally:
                server.thaw()
            await back(store)
            assert await store.get_many(["k"]) == [b"v"]


async def test_restarted_redis_is_used_again() -> None:
    with RedisServer() as server:
        async with opened(server) as store:
            await store.put("k", b"v", ttl_s=60)
            server.kill()
            assert await every_operation(store) == NOTHING
            server.start()
            await back(store)
            await store.put("k", b"new", ttl_s=60)
            assert await store.get_many(["k"]) == [b"new"]


async def test_quick_restart_between_two_commands_goes_unnoticed() -> None:
    with RedisServer() as server:
        async with opened(server) as store:
            await store.put("k", b"v", ttl_s=60)
            server.kill()
            server.start()
            await store.put("k", b"new", ttl_s=60)
            assert await store.get_many(["k"]) == [b"new"]
            assert not store.stats.opened


async def test_follower_survives_a_restart() -> None:
    with RedisServer() as server:
        async with opened(server) as store:
            await store.claim("q", "leader", lease_s=0.5)
            follower = asyncio.create_task(store.follow("q", "leader", wait_s=10))
            await asyncio.sleep(0.1)
            server.kill()
            server.start()
            began = time.monotonic()
            await store.heartbeat([("q", "leader")], lease_s=0.5)  # takes the lost lease again
            await store.finish("q", "leader", b"answer", ttl_s=60)
            assert await follower in {b"answer", None}
            assert time.monotonic() - began < 5
            assert (await store.claim("q", "next", lease_s=1)).value == b"answer"


async def test_lost_subscription_falls_back_to_looking() -> None:
    with RedisServer() as server:
        async with opened(server) as store:
            await store.claim("q", "leader", lease_s=0.3)
            follower = asyncio.create_task(store.follow("q", "leader", wait_s=10))
            await asyncio.sleep(0.1)
            server.cli("client", "kill", "type", "pubsub")
            await store.finish("q", "leader", b"answer", ttl_s=60)
            assert await follower == b"answer"
            # And the next follower gets a subscription of its own.
            await store.claim("p", "leader", lease_s=5)
            follower = asyncio.create_task(store.follow("p", "leader", wait_s=10))
            await asyncio.sleep(0.2)
            await store.finish("p", "leader", b"second", ttl_s=60)
            assert await asyncio.wait_for(follower, 2) == b"second"


async def test_full_redis_still_reads_and_never_raises() -> None:
    with RedisServer() as server:
        async with opened(server) as store:
            await store.put("k", b"v", ttl_s=60)
            await store.claim("q", "leader", lease_s=5)
            server.cli("config", "set", "maxmemory", "1")
            assert await store.get_many(["k"]) == [b"v"]
            await store.put("more", b"v", ttl_s=60)
            assert (await store.claim("other", "t", lease_s=1)).state == "away"
            assert (await store.reserve(MONEY)).state == "away"
            # The hand-over works without the write.
            follower = asyncio.create_task(store.follow("q", "leader", wait_s=3))
            await asyncio.sleep(0.1)
            await store.finish("q", "leader", b"answer", ttl_s=60)
            assert await follower == b"answer"
            assert store.stats.operations["put", "refused"] == 1
            assert not store.stats.away


async def test_read_only_replica_still_reads() -> None:
    with RedisServer() as server:
        async with opened(server) as store:
            await store.put("k", b"v", ttl_s=60)
            server.cli("config", "set", "replica-serve-stale-data", "yes")
            server.cli("replicaof", "127.0.0.1", free_port())
            assert await store.get_many(["k"]) == [b"v"]
            await store.put("more", b"v", ttl_s=60)
            assert (await store.claim("q", "t", lease_s=1)).state == "away"
            assert store.stats.operations["put", "refused"] == 1


async def test_values_of_another_type_are_no_values() -> None:
    with RedisServer() as server:
        async with opened(server) as store:
            server.cli("lpush", "gradekeeper:{k}:v", "x")
            server.cli("set", "gradekeeper:{budget}:d", "x")
            assert await store.get_many(["k"]) == [None]
            assert (await store.claim("k", "t", lease_s=1)).state == "away"
            assert (await store.reserve(MONEY)).state == "away"
            assert await store.spent(["d"]) == [None]


@pytest.mark.parametrize(
    "says",
    [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x00\xff\x00\r\n", b"*-7\r\n", b"+OK\r\n", b":12\r\n"],
    ids=["http", "noise", "bad_length", "status", "number"],
)
async def test_server_that_is_no_redis_is_left_alone(says: bytes) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while await reader.read(65536):
                writer.write(says)
                await writer.drain()
        writer.close()

    port = free_port()
    async with await asyncio.start_server(talk, "127.0.0.1", port):
        store = RedisStore(StoreConfig(url=f"redis://127.0.0.1:{port}", probe_s=5))
        began = time.monotonic()
        for _ in range(3):
            assert await store.get_many(["a", "b"]) == [None, None]
            assert (await store.claim("k", "t", lease_s=1)).state == "away"
        assert time.monotonic() - began < 5
        await store.close()


async def test_answer_that_waits_for_a_busy_process_is_not_late() -> None:
    with RedisServer() as server:
        async with opened(server) as store:
            await store.put("k", b"v", ttl_s=60)
            asked = asyncio.create_task(store.get_many(["k"]))
            await asyncio.sleep(0.01)
            slow = asyncio.create_task(store.get_many(["k"]))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            time.sleep(0.4)  # noqa: ASYNC251 - a busy process is the point
            assert await asked == [b"v"]
            assert await slow == [b"v"]
            assert store.stats.operations["get", "timeout"] == 0


async def back(store: RedisStore) -> None:
    """Wait until the probe has found Redis."""
    for _ in range(100):
        if not store.stats.away:
            return
        await asyncio.sleep(0.05)
    pytest.fail("the store did not come back")
