"""Stores of both kinds, over a real Redis."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from service.stores import MemoryStore, RedisStore, Store, StoreConfig
from tests.stores.server import RedisServer


@pytest.fixture(scope="module")
def redis_server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture
async def redis_store(redis_server: RedisServer) -> AsyncIterator[RedisStore]:
    redis_server.cli("flushall")
    store = RedisStore(StoreConfig(url=redis_server.url, probe_s=0.05, timeout_s=2.0))
    yield store
    await store.close()


@pytest.fixture(params=["memory", "redis"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[Store]:
    if request.param == "memory":
        memory = MemoryStore()
        yield memory
        await memory.close()
        return
    server: RedisServer = request.getfixturevalue("redis_server")
    server.cli("flushall")
    redis = RedisStore(StoreConfig(url=server.url, probe_s=0.05, timeout_s=2.0))
    yield redis
    await redis.close()
