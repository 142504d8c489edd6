"""The judge's upstream dies, drags and flaps; other graders do not notice."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from tests.cluster.load import by_kind
from tests.cluster.processes import Cluster
from tests.cluster.story import HOLD_S, Report, Story, blocking, story
from tests.cluster.workload import judged_by_prompt
from tests.fakes_upstream import Asked, Says, Upstream, error
from tests.judge.served import Background

pytestmark = [pytest.mark.system, pytest.mark.serial]


@pytest.fixture(autouse=True)
def _answers_again(judge: Upstream) -> Iterator[None]:
    yield
    judge.script = judged_by_prompt


async def test_the_judge_is_dead(
    shared: Cluster, judge: Upstream, background: Background, report: Report
) -> None:
    port = urlsplit(judge.url).port
    assert port is not None
    async with story(shared, report) as told:
        told.broken()
        await blocking(background.call, judge.stop())
        await asyncio.sleep(HOLD_S)
        await blocking(background.call, judge.start(port))
        told.healed()
    only_judges_suffered(told)


@pytest.mark.faults
async def test_the_judge_is_slow(shared: Cluster, judge: Upstream, report: Report) -> None:
    def drag(asked: Asked) -> Says:
        return Says(action="hang") if asked.number % 3 else judged_by_prompt(asked)

    async with story(shared, report) as told:
        told.broken()
        judge.script = drag
        await asyncio.sleep(max(HOLD_S, 6))  # longer than the deadline of a judge call
        judge.script = judged_by_prompt
        told.healed()
    only_judges_suffered(told)


@pytest.mark.faults
async def test_the_judge_flaps(shared: Cluster, judge: Upstream, report: Report) -> None:
    faults = itertools.cycle(
        [error(500), Says(action="drop"), Says(action="drop_midway"), Says(action="garbage")]
    )
    async with story(shared, report) as told:
        told.broken()
        for _ in range(max(2, int(HOLD_S / 0.6))):
            judge.script = lambda _: next(faults)
            await asyncio.sleep(0.3)
            judge.script = judged_by_prompt
            await asyncio.sleep(0.3)
        told.healed()
    only_judges_suffered(told)


def only_judges_suffered(told: Story) -> None:
    """Assert that graders without a judge were right all the time."""
    for kind, results in by_kind(told.during()):
        if kind != "judge":
            assert {result.outcome.verdict for result in results} == {"right"}
