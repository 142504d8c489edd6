"""Counting: numbers wait in lists and reach the series in bulk, none lost, none twice."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graders.grade import Failure, Grade
from graders.ports import JudgeReply, Ports
from service.app import create_app
from service.counting import Counts, Observations
from service.grading import RowGrader
from service.judge import JudgeContext
from service.metrics import Metrics
from tests.api.world import calling, metric, settings
from tests.fakes import FakeJudge, verdict

GENE = 'grader="gene",version="1"'
FAILED = Failure(code="invalid_variable", flag="invalid_variable_error", message="no")
DOWN = Failure(
    code="judge_unavailable", flag="model_grader_server_error", message="", upstream=True
)


@pytest.fixture
def counts() -> Counts:
    return Counts(Metrics())


def text(counts: Counts) -> str:
    counts.flush()
    return counts.metrics.exposition()[0].decode()


def value(counts: Counts, series: str) -> float:
    return metric(text(counts), f"gradekeeper_{series}")


class TestObservations:
    @given(st.lists(st.floats(-3, 20)))
    def test_in_bulk_are_those_one_by_one(self, values: list[float]) -> None:
        bulk, single = Metrics(), Metrics()
        observations = Observations(bulk.rewards.labels("gene", "1"))
        observations.waiting += values
        assert observations.flush() == sorted(values)
        assert observations.flush() == []
        for one in values:
            single.rewards.labels("gene", "1").observe(one)
        found, expected = (
            [
                (sample.name, sample.labels, sample.value)
                for family in metrics.registry.collect()
                if family.name == "gradekeeper_rewards"
                for sample in family.samples
            ]
            for metrics in (bulk, single)
        )
        assert found == expected or not values
        assert bulk.rewards.labels("gene", "1")._sum.get() == pytest.approx(math.fsum(values))


class TestRewards:
    def test_of_good_grades_are_distributed_summed_and_squared(self, counts: Counts) -> None:
        counter = counts.of("gene", 1, "string_check")
        for reward in (0.0, 0.25, 1.0, -0.5):
            counter.graded(Grade(reward=reward))
        counter.graded(Grade(reward=0.0, failures=(FAILED,)))
        counter.graded(Grade(reward=0.0, failures=(FAILED, DOWN)))
        assert value(counts, f"rewards_count{{{GENE}}}") == 4
        assert value(counts, 'rewards_bucket{grader="gene",le="0.0",version="1"}') == 2
        assert value(counts, 'rewards_bucket{grader="gene",le="0.3",version="1"}') == 3
        assert value(counts, 'reward_sum_total{grader="gene",sign="positive",version="1"}') == 1.25
        assert value(counts, 'reward_sum_total{grader="gene",sign="negative",version="1"}') == 0.5
        assert value(counts, f"reward_squares_total{{{GENE}}}") == 1.3125
        for outcome, number in (("ok", 4), ("failed", 1), ("upstream", 1)):
            labels = f'grader="gene",outcome="{outcome}",version="1"'
            assert value(counts, f"grades_total{{{labels}}}") == number
        assert value(counts, 'grade_failures_total{code="invalid_variable"}') == 2

    def test_that_are_huge_leave_finite_sums(self, counts: Counts) -> None:
        counter = counts.of("gene", 1, "multi")
        for reward in (1e308, 1e308, -1e308):
            counter.graded(Grade(reward=reward))
        assert value(counts, 'reward_sum_total{grader="gene",sign="positive",version="1"}') == 2e6
        assert value(counts, 'reward_sum_total{grader="gene",sign="negative",version="1"}') == 1e6
        assert value(counts, f"reward_squares_total{{{GENE}}}") == 3e12

    def test_of_ad_hoc_graders_share_one_label(self, counts: Counts) -> None:
        for kind in ("string_check", "multi"):
            counts.ad_hoc(kind).graded(Grade(reward=1.0))
        assert value(counts, 'rewards_count{grader="(ad hoc)",version=""}') == 2


class TestSeconds:
    def test_of_a_block_are_its_mean(self, counts: Counts) -> None:
        counter = counts.of("gene", 1, "string_check")
        counter.took(0.5)
        counter.took(0.004, 4)
        counter.took(0.1, 0)
        seconds = 'grade_duration_seconds_{}{{phase="whole",type="string_check"}}'
        assert value(counts, seconds.format("count")) == 5
        assert value(counts, seconds.format("sum")) == pytest.approx(0.504)


class TestWatch:
    async def test_shows_what_is_under_way_and_how_long_it_took(self, counts: Counts) -> None:
        watch = counts.watch()
        let_go = asyncio.Event()

        async def grading() -> Grade:
            await let_go.wait()
            return Grade(reward=1.0, diagnostics={"": {"execution_time": 0.0}})

        async def whole() -> Grade:
            return await watch.part("python", "", grading())

        task = asyncio.ensure_future(watch.whole("python", whole()))
        await asyncio.sleep(0.01)
        assert value(counts, 'grades_in_flight{type="python"}') == 1
        assert value(counts, 'grades_in_flight{type="multi"}') == 0
        let_go.set()
        assert (await task).reward == 1.0
        assert value(counts, 'grades_in_flight{type="python"}') == 0
        for phase in ("whole", "part", "queue"):
            labels = f'{{phase="{phase}",type="python"}}'
            assert value(counts, f"grade_duration_seconds_count{labels}") == 1
            assert 0.009 < value(counts, f"grade_duration_seconds_sum{labels}") < 1

    async def test_forgets_what_is_cancelled(self, counts: Counts) -> None:
        task = asyncio.ensure_future(counts.watch().whole("endpoint", _for_ever()))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert value(counts, 'grades_in_flight{type="endpoint"}') == 0


async def _for_ever() -> Grade:
    await asyncio.Event().wait()
    raise AssertionError


class TestPendingRows:
    @pytest.mark.parametrize("name", ["exact", "judged"])
    async def test_of_a_batch_fall_with_every_grade(
        self, counts: Counts, name: str, world_of: Any
    ) -> None:
        definition, ports, rows = world_of(name)
        counter = counts.of(name, 1, "string_check")
        seen: list[float] = []
        grader = RowGrader(definition, ports, counter, terms=JudgeContext(), concurrency=1)
        real = grader.result

        def result(grade: Grade) -> Any:
            seen.append(value(counts, "batch_rows_pending"))
            return real(grade)

        grader.result = result  # type: ignore[method-assign]
        grader.turn = lambda rows: grader.now(rows[:1])  # type: ignore[method-assign]
        assert len(await grader.batch(rows)) == 3
        assert seen == [3, 2, 1]
        assert value(counts, "batch_rows_pending") == 0

    async def test_of_a_batch_that_is_answered_as_a_stream_count_too(
        self, definitions: Path
    ) -> None:
        let_go = asyncio.Event()

        async def answer() -> JudgeReply:
            await let_go.wait()
            return verdict(1.0)

        ports = Ports(judge=FakeJudge(lambda _: answer()))
        app = create_app(settings(definitions, max_concurrent_rows=2), ports=ports)
        body = {"rows": [{"item": {"question": "q"}, "model_sample": str(n)} for n in range(5)]}
        path = "/v1/graders/judged/versions/1/score/batch"
        async with calling(app, headers={"accept": "application/x-ndjson"}) as client:
            batch = asyncio.ensure_future(client.post(path, json=body))
            await asyncio.sleep(0.05)
            waiting = (await client.get("/metrics")).text
            let_go.set()
            assert len((await batch).text.splitlines()) == 6
            done = (await client.get("/metrics")).text
        assert metric(waiting, "gradekeeper_batch_rows_pending") == 5
        assert metric(waiting, 'gradekeeper_grades_in_flight{type="score_model"}') == 2
        assert metric(done, "gradekeeper_batch_rows_pending") == 0

    async def test_of_a_batch_that_is_given_up_are_none(
        self, counts: Counts, world_of: Any
    ) -> None:
        definition, ports, rows = world_of("judged", hangs=True)
        counter = counts.of("judged", 1, "score_model")
        grader = RowGrader(definition, ports, counter, terms=JudgeContext())
        task = asyncio.ensure_future(grader.batch(rows))
        await asyncio.sleep(0.01)
        assert value(counts, "batch_rows_pending") == 3
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert value(counts, "batch_rows_pending") == 0
