"""Load with everything going wrong: every row is scored correctly or typed as failed."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from random import Random

import pytest

from graders.errors import UpstreamError
from service.judge import JudgeConfig, OpenAIJudge, RetryPolicy
from service.stores import RedisStore, StoreConfig
from tests.fakes_upstream import Asked, Says, Upstream, completion, error
from tests.judge.calls import call
from tests.judge.conftest import MakeJudge
from tests.stores.server import RedisServer

pytestmark = [pytest.mark.integration, pytest.mark.serial]


def truth(text: str) -> str:
    """Return the only right answer to a question: the number it ends with."""
    return f'{{"steps": [], "result": {text.rpartition(" ")[2]}}}'


def unlucky(seed: int) -> Random:
    return Random(seed)


async def test_injected_failures_never_become_a_reward(
    upstream: Upstream, make_judge: MakeJudge
) -> None:
    chance = unlucky(4)

    def script(asked: Asked) -> Says:
        roll = chance.random()
        if roll < 0.10:
            return error(500)
        if roll < 0.20:
            return error(429, headers={"retry-after": "0.02"})
        if roll < 0.25:
            return Says(action="hang")
        if roll < 0.30:
            return Says(body=b'{"choices": [{"mess')
        if roll < 0.32:
            return Says(action="drop" if roll < 0.31 else "drop_midway")
        return completion(truth(asked.text))

    upstream.script = script
    retry = RetryPolicy(attempts=4, first_pause_s=0.02, longest_pause_s=0.1)
    judge = make_judge(JudgeConfig(retry=retry, deadline_s=30), timeout_s=0.5, concurrency=64)

    async def grade(number: int) -> str:
        try:
            reply = await judge.judge(call(f"number {number}"))
        except UpstreamError as failure:
            return f"failed:{failure.kind}" if failure.retryable else "gave up"
        return "right" if reply.content == truth(f"number {number}") else "wrong"

    found = Counter(await asyncio.gather(*map(grade, range(2000))))
    assert found["wrong"] == 0
    assert found["right"] > 1900, found
    assert sum(found.values()) == 2000
    assert judge.route_states[0].in_flight == 0


class Load:
    """Grades at a steady pace, each checked."""

    def __init__(self, judge: OpenAIJudge, per_second: int) -> None:
        self.judge = judge
        self.pause_s = 1 / per_second
        self.done: list[float] = []
        self.slowest_s = 0.0
        self.wrong = 0
        self.stop = False

    async def one(self, number: int) -> None:
        # Half of the questions come twice in a row, and old ones come back.
        text = f"number {number // 2 if number % 4 else number % 500}"
        began = time.monotonic()
        reply = await self.judge.judge(call(text))
        self.slowest_s = max(self.slowest_s, time.monotonic() - began)
        self.wrong += reply.content != truth(text)
        self.done.append(time.monotonic())

    async def run(self) -> None:
        began = time.monotonic()
        number = 0
        async with asyncio.TaskGroup() as group:
            while not self.stop:
                while number * self.pause_s < time.monotonic() - began:
                    group.create_task(self.one(number))
                    number += 1
                await asyncio.sleep(0.005)

    def rate_of_the_last_second(self) -> int:
        since = time.monotonic() - 1
        return sum(at >= since for at in self.done)

    async def seconds_until_rate(self, rate: float) -> float:
        """Wait until the last full second was at ``rate`` again."""
        began = time.monotonic()
        await asyncio.sleep(1)
        while self.rate_of_the_last_second() < rate and time.monotonic() < began + 10:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
        return time.monotonic() - began


async def test_redis_killed_restarted_and_frozen_under_load_harms_nothing(
    upstream: Upstream, make_judge: MakeJudge
) -> None:
    upstream.script = lambda asked: completion(truth(asked.text), delay_s=0.02)
    with RedisServer() as server:
        store = RedisStore(StoreConfig(url=server.url, probe_s=0.2))
        # Hardly any near tier, so that Redis is really asked.
        judge = make_judge(JudgeConfig(near_entries=10, lease_s=1.0), store=store)
        await judge.warm()
        load = Load(judge, per_second=500)
        running = asyncio.create_task(load.run())
        try:
            await asyncio.sleep(2)
            healthy = load.rate_of_the_last_second()
            server.kill()
            await asyncio.sleep(1)
            server.start()
            restarted_s = await load.seconds_until_rate(0.8 * healthy)
            await asyncio.sleep(1)
            server.freeze()
            await asyncio.sleep(1.5)
            server.thaw()
            thawed_s = await load.seconds_until_rate(0.8 * healthy)
        finally:
            load.stop = True
            await asyncio.gather(running, return_exceptions=True)
            await judge.close()
            await store.close()
    await running  # a failed grade is raised here
    assert healthy > 400
    assert load.wrong == 0
    assert load.slowest_s < 5
    assert max(restarted_s, thawed_s) < 5
    assert store.stats.opened >= 2
    assert not store.stats.away


async def test_many_slow_calls_at_once(upstream: Upstream, make_judge: MakeJudge) -> None:
    # 5 s for the last one, and longer for those before, so that it is still in their company.
    upstream.script = lambda asked: completion(
        truth(asked.text), delay_s=5.0 + (1000 - asked.number) / 100
    )
    judge = make_judge(concurrency=1000)
    await judge.warm()
    replies = await asyncio.gather(*(judge.judge(call(f"number {i}")) for i in range(1000)))
    assert all(r.content == truth(f"number {i}") for i, r in enumerate(replies))
    assert upstream.most_in_flight == 1000
