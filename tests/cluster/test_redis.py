"""Redis fails in every way that it can; scores do not depend on it."""

from __future__ import annotations

import asyncio

import pytest

from tests.cluster.processes import Cluster
from tests.cluster.story import HOLD_S, Report, blocking, story
from tests.stores.server import free_port

pytestmark = [pytest.mark.system, pytest.mark.serial]


async def test_redis_is_killed_and_comes_back_empty(shared: Cluster, report: Report) -> None:
    async with story(shared, report) as told:
        told.broken()
        await blocking(shared.redis.kill)
        await asyncio.sleep(HOLD_S)
        await blocking(shared.redis.start)
        told.healed()
    assert set(report.calls) == {"right"}


@pytest.mark.faults
async def test_redis_is_paused(shared: Cluster, report: Report) -> None:
    async with story(shared, report) as told:
        told.broken()
        shared.redis.freeze()
        try:
            await asyncio.sleep(HOLD_S)
        finally:
            shared.redis.thaw()
        told.healed()
    assert set(report.calls) == {"right"}


@pytest.mark.faults
async def test_redis_is_out_of_memory(shared: Cluster, report: Report) -> None:
    async with story(shared, report) as told:
        told.broken()
        shared.redis.cli("config", "set", "maxmemory-policy", "noeviction", "maxmemory", "1mb")
        assert "OOM" in shared.redis.cli("set", "k", "v")
        await asyncio.sleep(HOLD_S)
        shared.redis.cli("config", "set", "maxmemory", "0")
        told.healed()
    assert set(report.calls) == {"right"}


@pytest.mark.faults
async def test_redis_is_a_read_only_replica(shared: Cluster, report: Report) -> None:
    async with story(shared, report) as told:
        told.broken()
        shared.redis.cli("replicaof", "127.0.0.1", free_port())
        assert "READONLY" in shared.redis.cli("set", "k", "v")
        await asyncio.sleep(HOLD_S)
        shared.redis.cli("replicaof", "no", "one")
        told.healed()
    assert set(report.calls) == {"right"}
