"""TLS, Sentinel and Cluster: the same promises over real servers of each kind."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from service.stores import RedisStore, Reservation, StoreConfig
from tests.stores.server import RedisServer, Sentinel, certificate, free_port

pytestmark = pytest.mark.integration


async def keeps_its_promises(store: RedisStore) -> None:
    """Values, a follower, and money over several counters."""
    keys = [f"k{i}" for i in range(20)]
    await asyncio.gather(*(store.put(key, key.encode(), ttl_s=60) for key in keys))
    assert await store.get_many([*keys, "none"]) == [*(key.encode() for key in keys), None]
    assert (await store.claim("q", "leader", lease_s=5)).state == "granted"
    assert (await store.claim("q", "other", lease_s=5)).state == "held"
    follower = asyncio.create_task(store.follow("q", "leader", wait_s=5))
    await asyncio.sleep(0.15)
    await store.heartbeat([("q", "leader")], lease_s=5)
    began = time.monotonic()
    await store.finish("q", "leader", b"answer", ttl_s=60)
    assert await follower == b"answer"
    assert time.monotonic() - began < 3
    money = Reservation(id="r", counters=(("a", 10), ("b", 10)), amount=6, hold_s=60)
    assert (await store.reserve(money)).state == "granted"
    await store.settle(money, spent=7)
    assert await store.spent(["a", "b"]) == [7, 7]
    assert await store.check() is None
    trouble = {(op, how) for op, how in store.stats.operations if how != "ok"}
    assert not trouble


async def test_tls(tmp_path: Path) -> None:
    cert, options = certificate(tmp_path)
    with RedisServer(*options, tls=True) as server:
        store = RedisStore(StoreConfig(url=server.url, tls_ca_file=str(cert), timeout_s=2.0))
        await keeps_its_promises(store)
        await store.close()
        distrustful = RedisStore(StoreConfig(url=server.url, timeout_s=2.0))
        assert await distrustful.check() is not None
        await distrustful.close()


async def test_password() -> None:
    with RedisServer("--requirepass", "hunter2") as server:
        url = server.url.replace("//", "//:hunter2@")
        store = RedisStore(StoreConfig(url=url, timeout_s=2.0))
        await keeps_its_promises(store)
        await store.close()
        stranger = RedisStore(StoreConfig(url=server.url))
        assert await stranger.get_many(["k1"]) == [None]
        assert await stranger.check() is not None
        await stranger.close()


async def test_cluster() -> None:
    with RedisServer("--cluster-enabled", "yes", "--cluster-port", str(free_port())) as server:
        server.cli("cluster", "addslotsrange", 0, 16383)
        for _ in range(100):
            if "cluster_state:ok" in server.cli("cluster", "info"):
                break
            await asyncio.sleep(0.05)
        store = RedisStore(
            StoreConfig(url=f"redis+cluster://127.0.0.1:{server.port}", timeout_s=2.0)
        )
        await keeps_its_promises(store)
        await store.close()


async def test_sentinel_follows_a_failover() -> None:
    with RedisServer() as first, RedisServer() as second, Sentinel(first.port) as sentinel:
        sentinel.cli("sentinel", "debug", "info-period", "200", "publish-period", "200")
        second.cli("replicaof", "127.0.0.1", first.port)
        url = f"redis+sentinel://127.0.0.1:{sentinel.port}/main/0"
        store = RedisStore(StoreConfig(url=url, probe_s=0.1, timeout_s=2.0))
        await keeps_its_promises(store)
        for _ in range(200):
            if "num-slaves\n1" in sentinel.cli("sentinel", "master", "main"):
                break
            await asyncio.sleep(0.1)
        first.kill()
        began = time.monotonic()
        while time.monotonic() - began < 20:
            await store.put("after", b"v", ttl_s=60)
            if await store.get_many(["after"]) == [b"v"]:
                break
            await asyncio.sleep(0.1)
        assert await store.get_many(["after"]) == [b"v"]
        assert second.cli("get", "gradekeeper:{after}:v") == "v"
        await store.close()
