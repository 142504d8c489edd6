"""Single flight between two judges over one store: parts played, failures, leaders that leave."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial

import pytest

from graders.errors import BudgetExceededError, JudgeUnavailableError
from service.judge import (
    Budget,
    BudgetConfig,
    JudgeConfig,
    JudgeContext,
    OpenAIJudge,
    Price,
    RetryPolicy,
    Route,
    Routes,
    judging,
)
from service.judge.cache import Cache
from service.judge.flight import Flights
from service.judge.outcome import Answer, Landed
from service.judge.stats import JudgeStats
from service.stores import MemoryStore, RedisStore, Store, StoreConfig
from tests.fakes_upstream import Asked, Says, Upstream, completion, error
from tests.judge.calls import call
from tests.stores.server import RedisServer, free_port

pytestmark = pytest.mark.integration


@pytest.fixture(params=["memory", "redis"])
async def stores(request: pytest.FixtureRequest) -> AsyncIterator[tuple[Store, Store]]:
    """Return the stores of two replicas: one memory, or two clients of one Redis."""
    if request.param == "memory":
        memory = MemoryStore()
        yield memory, memory
        return
    server: RedisServer = request.getfixturevalue("redis_server")
    server.cli("flushall")
    config = StoreConfig(url=server.url, timeout_s=2.0)
    pair = (RedisStore(config), RedisStore(config))
    yield pair
    for store in pair:
        await store.close()


def _always(says: Says, asked: Asked) -> Says:
    return says


def replica(upstream: Upstream, store: Store, *budgets: Budget) -> OpenAIJudge:
    route = Route(name="test", base_url=upstream.url, price=Price(input=1.0))
    config = JudgeConfig(
        lease_s=0.9, retry=RetryPolicy(attempts=1), budget=BudgetConfig(budgets=budgets)
    )
    return OpenAIJudge(config, Routes(routes=(route,)), store)


async def test_long_call_is_followed_over_many_leases(
    upstream: Upstream, stores: tuple[Store, Store]
) -> None:
    upstream.script = lambda asked: completion(delay_s=2.2)
    one, other = (replica(upstream, store) for store in stores)
    first = asyncio.create_task(one.judge(call()))
    await upstream.reached(1)
    second = await other.judge(call())
    assert (await first).content == second.content
    assert ((await first).cached, second.cached) == (False, True)
    assert upstream.count == 1
    assert second.diagnostics["source"] == "followed"
    # What came by following is remembered, and a third replica finds it in the store.
    assert (await other.judge(call())).diagnostics["source"] == "hit_process"
    third = replica(upstream, stores[1])
    assert (await third.judge(call())).diagnostics["source"] == "hit_store"
    for judge in (one, other, third):
        await judge.close()


async def test_failure_and_refusal_reach_followers_but_nobody_later(
    upstream: Upstream, stores: tuple[Store, Store]
) -> None:
    one, other = (replica(upstream, store) for store in stores)
    for says in (error(500), completion(None, refusal="no")):
        slow = type(says)(status=says.status, body=says.body, delay_s=0.3)
        upstream.script = partial(_always, slow)
        before = upstream.count
        first = asyncio.create_task(one.judge(call()))
        await upstream.reached(before + 1)
        results = await asyncio.gather(first, other.judge(call()), return_exceptions=True)
        assert upstream.count == before + 1
        kinds = {type(result).__name__ for result in results}
        assert kinds in ({"JudgeUnavailableError"}, {"JudgeReply"})
    upstream.script = lambda asked: completion()
    assert not (await one.judge(call())).cached
    for judge in (one, other):
        await judge.close()


async def test_follower_takes_over_at_once_from_a_leader_that_gives_up(
    upstream: Upstream, stores: tuple[Store, Store]
) -> None:
    upstream.script = lambda asked: completion(delay_s=60 if asked.number == 1 else 0.05)
    one, other = (replica(upstream, store) for store in stores)
    first = asyncio.create_task(one.judge(call()))
    await upstream.reached(1)
    second = asyncio.create_task(other.judge(call()))
    await asyncio.sleep(0.2)
    first.cancel()
    async with asyncio.timeout(10):
        assert (await second).content
    assert other.stats.flights["taken_over"] == 1
    for judge in (one, other):
        await judge.close()


async def test_spent_budget_of_a_leader_is_not_its_followers(
    upstream: Upstream, stores: tuple[Store, Store]
) -> None:
    poor = Budget(per="key", name="poor", dollars_per_day=0.0)
    one, other = (replica(upstream, store, poor) for store in stores)

    async def ask(judge: OpenAIJudge, key: str) -> object:
        with judging(JudgeContext(api_key=key)):
            return await judge.judge(call())

    refused, answered = await asyncio.gather(
        ask(one, "poor"), ask(other, "rich"), return_exceptions=True
    )
    if not isinstance(refused, BudgetExceededError):
        # The rich one was first, so the poor one got its answer for nothing.
        assert one.stats.flights["followed"] + one.stats.cache["hit_store"] == 1
    assert not isinstance(answered, BaseException)
    assert upstream.count == 1
    for judge in (one, other):
        await judge.close()


async def test_without_redis_each_replica_asks_once(upstream: Upstream) -> None:
    store = RedisStore(StoreConfig(url=f"redis://127.0.0.1:{free_port()}"))
    judge = replica(upstream, store)
    replies = await asyncio.gather(*(judge.judge(call()) for _ in range(20)))
    assert upstream.count == 1
    assert sum(not reply.cached for reply in replies) == 1
    assert judge.stats.flights["alone"] == 1
    assert (await judge.judge(call())).cached
    await judge.close()
    await store.close()


async def test_closing_ends_what_is_in_the_air(upstream: Upstream) -> None:
    upstream.script = lambda asked: completion(delay_s=30)
    judge = replica(upstream, MemoryStore())
    task = asyncio.create_task(judge.judge(call()))
    await upstream.reached(1)
    await judge.close()
    await asyncio.sleep(0.05)
    assert upstream.cancelled == 1
    with judging(JudgeContext(cache="off")), pytest.raises(JudgeUnavailableError) as caught:
        await judge.judge(call())
    for failure in (task.exception(), caught.value):
        assert isinstance(failure, JudgeUnavailableError)
        assert (failure.kind, failure.retryable) == ("closing", True)


async def test_defect_is_raised_to_all_who_wait_and_lets_go_of_the_lease() -> None:
    store, stats = MemoryStore(), JudgeStats()
    cache = Cache(store, stats, ttl_s=9, near_ttl_s=9, near_entries=9, near_bytes=999)
    flights = Flights(store, cache, stats, lease_s=30, patience_s=30)

    async def broken() -> Landed:
        await asyncio.sleep(0.01)
        raise ZeroDivisionError

    async def fine() -> Landed:
        return Landed(outcome=Answer(content="{}", model="m"), part="leader")

    results = await asyncio.gather(
        *(flights.run("k", ("", ""), broken, mode="shared") for _ in range(3)),
        return_exceptions=True,
    )
    assert [type(result) for result in results] == [ZeroDivisionError] * 3
    landed = await flights.run("k", ("", ""), fine, mode="shared")
    assert landed.part == "leader"
    await flights.close()


async def test_patience_with_a_leader_that_never_ends_is_bounded() -> None:
    store, stats = MemoryStore(), JudgeStats()
    cache = Cache(store, stats, ttl_s=9, near_ttl_s=9, near_entries=9, near_bytes=999)
    flights = Flights(store, cache, stats, lease_s=30, patience_s=0.1)
    await store.claim("k", "somebody", lease_s=60)

    async def fine() -> Landed:
        return Landed(outcome=Answer(content="{}", model="m"), part="leader")

    assert (await flights.run("k", ("", ""), fine, mode="shared")).part == "alone"
    await flights.close()
