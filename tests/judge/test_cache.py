"""What is kept, for whom, and what a caller may ask of the cache."""

from __future__ import annotations

import asyncio

import pytest

from graders.errors import JudgeUnavailableError
from service.judge import JudgeConfig, JudgeContext, RetryPolicy, judging
from service.judge.cache import Cache
from service.judge.outcome import Answer, Failed
from service.judge.stats import JudgeStats
from service.stores import MemoryStore, RedisStore, StoreConfig
from tests.fakes_upstream import Upstream, completion, error
from tests.judge.calls import call
from tests.judge.conftest import MakeJudge
from tests.stores.server import RedisServer

ONCE = JudgeConfig(retry=RetryPolicy(attempts=1))


def answer(content: str = "{}") -> Answer:
    return Answer(content=content, model="m", settles=True)


class TestControls:
    async def test_same_question_is_paid_once(
        self, upstream: Upstream, make_judge: MakeJudge
    ) -> None:
        judge = make_judge()
        first, second = await judge.judge(call()), await judge.judge(call())
        assert (first.cached, second.cached) == (False, True)
        assert (first.key, first.usage, first.content) == (second.key, second.usage, second.content)
        assert upstream.count == 1
        assert judge.stats.cache == {"miss": 1, "stored": 1, "hit_process": 1}

    async def test_refresh_asks_again_and_stores(
        self, upstream: Upstream, make_judge: MakeJudge
    ) -> None:
        upstream.script = lambda asked: completion(f'{{"steps": [], "result": {asked.number}}}')
        judge = make_judge()
        await judge.judge(call())
        with judging(JudgeContext(cache="refresh")):
            one, other = await asyncio.gather(judge.judge(call()), judge.judge(call()))
        assert one.content == other.content == '{"steps": [], "result": 2}'
        assert (await judge.judge(call())).content == '{"steps": [], "result": 2}'
        assert upstream.count == 2

    async def test_off_neither_reads_nor_stores_nor_shares(
        self, upstream: Upstream, make_judge: MakeJudge
    ) -> None:
        judge = make_judge()
        with judging(JudgeContext(cache="off")):
            await asyncio.gather(judge.judge(call()), judge.judge(call()))
        assert upstream.count == 2
        assert not (await judge.judge(call())).cached
        assert upstream.count == 3

    async def test_draws_are_independent_and_cached_apart(
        self, upstream: Upstream, make_judge: MakeJudge
    ) -> None:
        judge = make_judge()
        for index in (0, 1, 2, 1):
            with judging(JudgeContext(sample_index=index)):
                await judge.judge(call())
        await judge.judge(call(sample_index=1))
        assert upstream.count == 4

    async def test_errors_and_refusals_are_asked_again(
        self, upstream: Upstream, make_judge: MakeJudge
    ) -> None:
        judge = make_judge(ONCE)
        upstream.script = lambda asked: completion(None, refusal="no")
        await judge.judge(call())
        upstream.script = lambda asked: error(500)
        with pytest.raises(JudgeUnavailableError):
            await judge.judge(call())
        upstream.script = lambda asked: completion("not json")
        await judge.judge(call())
        upstream.script = lambda asked: completion()
        assert not (await judge.judge(call())).cached
        assert upstream.count == 4


class TestNearTier:
    def make(self, **bounds: float) -> Cache:
        plain = {"ttl_s": 100.0, "near_ttl_s": 10.0, "near_entries": 2, "near_bytes": 100}
        return Cache(MemoryStore(), JudgeStats(), clock=lambda: self.now, **(plain | bounds))  # type: ignore[arg-type]

    now = 0.0

    def test_least_recently_used_goes_first(self) -> None:
        cache = self.make()
        for key in "ab":
            cache.remember(key, answer(), 1)
        cache.near("a")
        cache.remember("c", answer(), 1)
        assert [cache.near(key) is not None for key in "abc"] == [True, False, True]

    def test_bytes_are_bounded(self) -> None:
        cache = self.make()
        cache.remember("a", answer(), 60)
        cache.remember("b", answer(), 60)
        cache.remember("huge", answer(), 101)
        assert [cache.near(key) is not None for key in ("a", "b", "huge")] == [False, True, False]

    def test_answers_end(self) -> None:
        cache = self.make()
        cache.remember("a", answer(), 1)
        self.now = 11.0
        assert cache.near("a") is None

    def test_failures_are_not_remembered(self) -> None:
        cache = self.make()
        cache.remember("a", Failed(details="d", kind="k"), 1)
        assert cache.near("a") is None
        none = self.make(near_entries=0)
        none.remember("a", answer(), 1)
        assert none.near("a") is None


class TestGarbage:
    @pytest.mark.parametrize(
        "value",
        [b"", b"\x00", b"hello", b"\x93\x01\xa1k\x01", b"\xc1" * 100, b"\x91" * 5000],
        ids=lambda value: f"{value[:4]!r}-{len(value)}",
    )
    def test_bytes_of_others_are_a_miss(self, value: bytes) -> None:
        stats = JudgeStats()
        cache = Cache(MemoryStore(), stats, ttl_s=1, near_ttl_s=1, near_entries=1, near_bytes=9)
        assert cache.decode("k", value) is None
        assert stats.cache["garbage"] == 1

    def test_answer_to_another_question_is_a_miss(self) -> None:
        cache = Cache(
            MemoryStore(), JudgeStats(), ttl_s=1, near_ttl_s=1, near_entries=1, near_bytes=9
        )
        value = cache.encode("k", answer())
        assert cache.decode("k", value) == answer()
        assert cache.decode("other", value) is None
        assert cache.decode("k", value[:-1]) is None

    @pytest.mark.integration
    async def test_garbage_in_redis_is_replaced_by_the_answer(
        self, upstream: Upstream, make_judge: MakeJudge, redis_server: RedisServer
    ) -> None:
        redis_server.cli("flushall")
        store = RedisStore(StoreConfig(url=redis_server.url, timeout_s=2.0))
        judge = make_judge(store=store)
        key = (await judge.judge(call())).key
        await asyncio.sleep(0.2)
        redis_server.cli("set", f"gradekeeper:{{{key}}}:v", "garbage")
        second = make_judge(store=store)
        assert not (await second.judge(call())).cached
        await asyncio.sleep(0.2)
        third = make_judge(store=store)
        assert (await third.judge(call())).cached
        assert second.stats.cache["garbage"] == 2
        assert upstream.count == 2
        await store.close()
