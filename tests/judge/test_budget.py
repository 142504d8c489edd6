"""Money: what a call costs, who pays, and when nobody may."""

from __future__ import annotations

import asyncio
import json
import re
from datetime import UTC, datetime

import msgspec
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
    judging,
)
from service.judge.budget import Budgets, Scope
from service.judge.outcome import Failed
from service.judge.stats import JudgeStats
from service.stores import MemoryStore, RedisStore, Reservation, Reserved, Store, StoreConfig
from tests.fakes_upstream import Says, Upstream, completion, error
from tests.judge.calls import call
from tests.judge.conftest import MakeJudge
from tests.stores.server import RedisServer, free_port

PRICE = Price(input=1000.0, output=1000.0)  # a tenth of a cent a token
NOON = datetime(2026, 11, 20, 12, tzinfo=UTC).timestamp()
TRAINER = JudgeContext(api_key="trainer", grader="gene@1")


def config(*budgets: Budget, policy: str = "local") -> JudgeConfig:
    return JudgeConfig(budget=BudgetConfig(budgets=budgets, when_store_away=policy))  # type: ignore[arg-type]


async def settled(judge: OpenAIJudge) -> None:
    """Wait until nothing of what was asked is open any more."""
    async with asyncio.timeout(5):
        while judge._asker._settling or judge._tiers._flights._flights:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def spent(judge: OpenAIJudge) -> dict[str, float | None]:
    """Return the dollars spent today by budget in use."""
    return {f"{one.per}:{one.name}": one.spent for one in await judge.budgets_today()}


class TestCost:
    async def test_is_told_to_the_one_who_paid(
        self, upstream: Upstream, make_judge: MakeJudge
    ) -> None:
        upstream.script = lambda asked: completion(usage=(100, 20, 0), model="m")
        judge = make_judge(price=PRICE)
        with judging(TRAINER):
            first, second = await judge.judge(call()), await judge.judge(call())
        assert first.diagnostics["cost_usd"] == pytest.approx(0.12)
        assert second.diagnostics["cost_usd"] == 0
        assert judge.stats.nanodollars == {("trainer", "gene@1", "m"): 120_000_000}
        assert judge.stats.tokens["m", "prompt"] == 100

    async def test_route_without_price_is_counted_as_such(self, make_judge: MakeJudge) -> None:
        judge = make_judge()
        await judge.judge(call())
        assert judge.stats.unpriced == {"test": 1}


class TestBudgets:
    async def test_spent_budget_refuses_calls_but_not_cached_answers(
        self, upstream: Upstream, make_judge: MakeJudge
    ) -> None:
        upstream.script = lambda asked: completion(usage=(100, 20, 0))
        judge = make_judge(
            config(Budget(per="key", dollars_per_day=0.9)),
            price=PRICE,
            assumed_completion_tokens=20,
        )
        with judging(TRAINER):
            asked = [f"q{i}" for i in range(20)]
            results = await asyncio.gather(
                *(judge.judge(call(text)) for text in asked), return_exceptions=True
            )
            paid = [
                text
                for text, one in zip(asked, results, strict=True)
                if not isinstance(one, Exception)
            ]
            refused = [one for one in results if isinstance(one, BudgetExceededError)]
            assert 0 < len(paid) < 20
            assert len(paid) + len(refused) == 20
            assert refused[0].retry_after_s is not None
            assert refused[0].kind == "budget_key"
            assert (await judge.judge(call(paid[0]))).cached
        assert upstream.count == len(paid)
        assert await spent(judge) == {"key:trainer": pytest.approx(0.12 * len(paid))}
        with judging(JudgeContext(api_key="other")):
            await judge.judge(call("theirs"))

    async def test_others_who_wait_are_not_refused_with_the_leader(
        self, upstream: Upstream, make_judge: MakeJudge
    ) -> None:
        judge = make_judge(config(Budget(per="key", name="poor", dollars_per_day=0.0)), price=PRICE)

        async def ask(key: str) -> object:
            with judging(JudgeContext(api_key=key)):
                return await judge.judge(call())

        keys = ["poor", "poor", "rich", "rich"]
        results = await asyncio.gather(*map(ask, keys), return_exceptions=True)
        assert [isinstance(one, BudgetExceededError) for one in results] == [
            True,
            True,
            False,
            False,
        ]
        assert upstream.count == 1

    async def test_call_cancelled_before_it_is_sent_gives_its_reservation_back(
        self, upstream: Upstream, make_judge: MakeJudge
    ) -> None:
        upstream.script = lambda asked: completion(usage=(1, 1, 0), delay_s=0.5)
        judge = make_judge(
            config(Budget(per="total", dollars_per_day=1.5)), price=PRICE, concurrency=1
        )
        sent = asyncio.create_task(judge.judge(call("sent")))
        await upstream.reached(1)
        waiting = asyncio.create_task(judge.judge(call("waiting")))
        await asyncio.sleep(0.05)
        with pytest.raises(BudgetExceededError):
            await judge.judge(call("no room"))
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await asyncio.sleep(0.05)
        await judge.judge(call("room"))
        await sent
        await settled(judge)
        assert await spent(judge) == {"total:": pytest.approx(0.004)}

    @pytest.mark.parametrize(
        ("says", "charged"),
        [
            (Says(action="hang"), 2),
            (Says(body=b"?"), 2),
            (Says(body=b"x" * 2_000), 1),  # too large, not tried again
            (error(500), 0),
            (Says(action="drop"), 0),
        ],
        ids=["timeout", "nonsense", "too large", "error", "dropped"],
    )
    async def test_attempt_that_was_worked_on_without_a_bill_costs_its_estimate(
        self, upstream: Upstream, make_judge: MakeJudge, says: Says, charged: int
    ) -> None:
        upstream.script = lambda asked: says
        retry = RetryPolicy(attempts=2, first_pause_s=0.01)
        budgets = BudgetConfig(budgets=(Budget(per="total", dollars_per_day=100),))
        judge = make_judge(
            JudgeConfig(budget=budgets, retry=retry),
            price=Price(input=0.0, output=1000.0),
            assumed_completion_tokens=100,
            timeout_s=0.3,
            max_reply_bytes=1_000,
        )
        with pytest.raises(JudgeUnavailableError):
            await judge.judge(call())
        await settled(judge)
        assert await spent(judge) == {"total:": pytest.approx(charged * 0.1)}

    async def test_call_cancelled_at_the_upstream_costs_its_estimate(
        self, upstream: Upstream, make_judge: MakeJudge
    ) -> None:
        upstream.script = lambda asked: Says(action="hang")
        judge = make_judge(
            config(Budget(per="total", dollars_per_day=1)),
            price=Price(input=0.0, output=1000.0),
            assumed_completion_tokens=400,
        )
        for number in range(2):
            task = asyncio.create_task(judge.judge(call(f"{number}")))
            await upstream.reached(number + 1)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await settled(judge)
        assert await spent(judge) == {"total:": pytest.approx(0.8)}
        with pytest.raises(BudgetExceededError):
            await judge.judge(call("no room"))

    @pytest.mark.parametrize("usage", [(-100_000, -5, 0), (10**30, 1, 0), (0, 0, 0)])
    async def test_usage_that_cannot_be_true_counts_as_the_estimate(
        self, upstream: Upstream, make_judge: MakeJudge, usage: tuple[int, int, int]
    ) -> None:
        upstream.script = lambda asked: completion(usage=usage)
        judge = make_judge(
            config(Budget(per="total", dollars_per_day=1)),
            price=Price(input=0.0, output=1000.0),
            assumed_completion_tokens=400,
        )
        reply = await judge.judge(call())
        assert (reply.diagnostics["cost_usd"], reply.usage.total_tokens) == (0, 0)
        await settled(judge)
        assert await spent(judge) == {"total:": pytest.approx(0.4)}

    @pytest.mark.parametrize(
        ("budgets", "problem"),
        [
            ([{"per": "total"}, {"per": "total"}], "two budgets per total are named '*'"),
            ([{"per": "key", "name": "a"}] * 2, "two budgets per key are named 'a'"),
            ([{"per": "total", "name": "all"}], "a total budget has no name"),
        ],
    )
    def test_budgets_that_cannot_both_hold_are_refused(
        self, budgets: list[dict[str, object]], problem: str
    ) -> None:
        document = {"budgets": [budget | {"dollars_per_day": 1} for budget in budgets]}
        with pytest.raises(msgspec.ValidationError, match=re.escape(problem)):
            msgspec.json.decode(json.dumps(document), type=BudgetConfig)

    async def counters(self, *budgets: Budget, context: JudgeContext = TRAINER) -> dict[str, int]:
        seen: list[Reservation] = []

        class Spy(MemoryStore):
            async def reserve(self, reservation: Reservation) -> Reserved:
                seen.append(reservation)
                return await super().reserve(reservation)

        made = Budgets(BudgetConfig(budgets=budgets), Spy(), JudgeStats(), wall=lambda: NOON)
        await made.reserve(context, 1, hold_s=1)
        return dict(seen[0].counters) if seen else {}

    async def test_own_budget_comes_before_everybodys(self) -> None:
        found = await self.counters(
            Budget(per="key", dollars_per_day=1),
            Budget(per="key", name="trainer", dollars_per_day=2),
            Budget(per="grader", name="gene", dollars_per_day=3),
            Budget(per="total", dollars_per_day=4),
        )
        assert found == {
            "2026-11-20:key:trainer": 2 * 10**9,
            "2026-11-20:grader:gene": 3 * 10**9,
            "2026-11-20:total:": 4 * 10**9,
        }
        assert await self.counters(Budget(per="grader", name="other@1", dollars_per_day=1)) == {}

    async def test_budget_comes_back_at_midnight(self) -> None:
        budgets = BudgetConfig(budgets=(Budget(per="total", dollars_per_day=0),))
        made = Budgets(budgets, MemoryStore(), JudgeStats(), wall=lambda: NOON)
        refused = await made.reserve(TRAINER, 1, hold_s=1)
        assert isinstance(refused, Failed)
        assert refused.retry_after_s == 12 * 3600

    @pytest.mark.integration
    @pytest.mark.parametrize("shared", [False, True], ids=["memory", "redis"])
    async def test_refusal_says_what_is_left_and_what_the_call_may_cost(
        self, redis_server: RedisServer, *, shared: bool
    ) -> None:
        redis_server.cli("flushall")
        store: Store = MemoryStore()
        if shared:
            store = RedisStore(StoreConfig(url=redis_server.url, timeout_s=2.0))
        told = []
        owners: tuple[Scope, ...] = ("total", "key")
        for per in owners:
            budgets = BudgetConfig(budgets=(Budget(per=per, dollars_per_day=0.006),))
            made = Budgets(budgets, store, JudgeStats(), wall=lambda: NOON)
            paid = await made.reserve(TRAINER, 2_000_000, hold_s=60)
            assert isinstance(paid, Reservation)
            await made.settle(paid, spent=1_000_000)
            assert isinstance(await made.reserve(TRAINER, 800_000, hold_s=60), Reservation)
            refused = await made.reserve(TRAINER, 4_300_000, hold_s=60)
            assert isinstance(refused, Failed)
            told.append(refused.details)
        left = "$0.006 a day: $0.0042 left, this call may cost $0.0043; renewed 00:00 UTC"
        assert told == [f"judge budget in total, {left}", f"judge budget of this key, {left}"]
        await store.close()


class TestWithoutRedis:
    async def reserved(self, policy: str, store: Store) -> list[object]:
        budgets = BudgetConfig(
            budgets=(Budget(per="total", dollars_per_day=1),),
            when_store_away=policy,  # type: ignore[arg-type]
        )
        made = Budgets(budgets, store, JudgeStats())
        kinds: list[object] = []
        for _ in range(3):
            got = await made.reserve(TRAINER, 400_000_000, hold_s=60)
            kinds.append(got.kind if isinstance(got, Failed) else type(got).__name__)
            if isinstance(got, Reservation):
                await made.settle(got, spent=400_000_000)
        return kinds

    @pytest.mark.parametrize(
        ("policy", "kinds"),
        [
            ("local", ["Reservation", "Reservation", "budget_total"]),
            ("allow", ["NoneType"] * 3),
            ("refuse", ["budget_store_away"] * 3),
        ],
    )
    async def test_policy_decides(self, policy: str, kinds: list[str]) -> None:
        store = RedisStore(StoreConfig(url=f"redis://127.0.0.1:{free_port()}"))
        assert await self.reserved(policy, store) == kinds
        await store.close()

    @pytest.mark.integration
    async def test_local_account_knows_what_was_spent_before(
        self, redis_server: RedisServer
    ) -> None:
        redis_server.cli("flushall")
        store = RedisStore(StoreConfig(url=redis_server.url, probe_s=60))
        budgets = BudgetConfig(budgets=(Budget(per="total", dollars_per_day=1),))
        made = Budgets(budgets, store, JudgeStats())
        first = await made.reserve(TRAINER, 800_000_000, hold_s=60)
        assert isinstance(first, Reservation)
        await made.settle(first, spent=800_000_000)
        store.stats.away = True
        refused = await made.reserve(TRAINER, 400_000_000, hold_s=60)
        assert isinstance(refused, Failed)
        await store.close()

    @pytest.mark.integration
    async def test_redis_that_forgot_the_day_is_not_believed(
        self, redis_server: RedisServer
    ) -> None:
        redis_server.cli("flushall")
        store = RedisStore(StoreConfig(url=redis_server.url, timeout_s=2.0))
        budgets = BudgetConfig(budgets=(Budget(per="total", dollars_per_day=1),))
        made = Budgets(budgets, store, JudgeStats())
        first = await made.reserve(TRAINER, 800_000_000, hold_s=60)
        assert isinstance(first, Reservation)
        await made.settle(first, spent=800_000_000)
        redis_server.cli("flushall")
        refused = await made.reserve(TRAINER, 400_000_000, hold_s=60)
        assert isinstance(refused, Failed)
        assert refused.kind == "budget_total"
        # What was set aside in Redis for it has been given back: others may spend all.
        other = Budgets(budgets, store, JudgeStats())
        assert isinstance(await other.reserve(TRAINER, 1_000_000_000, hold_s=60), Reservation)
        await store.close()


class TestStanding:
    def of(self, *budgets: Budget, store: Store | None = None, now: float = NOON) -> Budgets:
        clock = {"now": now}
        self.clock = clock
        return Budgets(
            BudgetConfig(budgets=budgets),
            store or MemoryStore(),
            JudgeStats(),
            wall=lambda: clock["now"],
        )

    async def test_of_named_budgets_is_known_before_anybody_spends(self) -> None:
        budgets = self.of(
            Budget(per="key", name="trainer", dollars_per_day=2.0),
            Budget(per="key", dollars_per_day=1.0),
            Budget(per="total", dollars_per_day=9.0),
        )
        found = {(one.per, one.name): (one.limit, one.spent) for one in await budgets.today()}
        assert found == {("key", "trainer"): (2.0, 0.0), ("total", ""): (9.0, 0.0)}

    async def test_of_all_others_once_they_are_used_and_anew_every_day(self) -> None:
        budgets = self.of(Budget(per="grader", dollars_per_day=1.0))
        reserved = await budgets.reserve(TRAINER, 400_000_000, hold_s=60)
        assert isinstance(reserved, Reservation)
        await budgets.settle(reserved, spent=250_000_000)
        (one,) = await budgets.today()
        assert (one.per, one.name, one.limit, one.spent) == ("grader", "gene@1", 1.0, 0.25)
        self.clock["now"] += 86_400
        (one,) = await budgets.today()
        assert one.spent == 0.0

    async def test_is_unknown_while_redis_is_away(self) -> None:
        store = RedisStore(StoreConfig(url=f"redis://127.0.0.1:{free_port()}/0", timeout_s=0.2))
        budgets = self.of(Budget(per="total", dollars_per_day=1.0), store=store)
        (one,) = await budgets.today()
        assert (one.limit, one.spent) == (1.0, None)
        await store.close()
