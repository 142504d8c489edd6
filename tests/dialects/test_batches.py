"""Dialects that send many samples at once."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from graders.errors import JudgeUnavailableError
from graders.ports import Ports
from service.app import create_app
from tests.api.world import calling, settings
from tests.dialects.world import path
from tests.fakes import FakeJudge, prompt, verdict


def batch(texts: list[str]) -> Any:
    return {"query": texts, "labels": texts}


async def test_rewards_are_asked_for_together_and_bounded(graders: Path) -> None:
    async def slow(_: Any) -> Any:
        await asyncio.sleep(0.02)
        return verdict(0.5)

    judge = FakeJudge(slow)
    app = create_app(settings(graders, max_concurrent_rows=8), ports=Ports(judge=judge))
    async with calling(app) as api:
        answer = await api.post(path("judged", "openrlhf"), json=batch(["a"] * 24))
    assert answer.json() == {"rewards": [0.5] * 24}
    assert judge.most_under_way == 8


async def test_one_row_nobody_could_be_asked_about_refuses_the_batch(graders: Path) -> None:
    down = JudgeUnavailableError("down")
    judge = FakeJudge(lambda call: down if "bad" in prompt(call) else verdict(1.0))
    async with calling(create_app(settings(graders), ports=Ports(judge=judge))) as api:
        answer = await api.post(path("judged", "openrlhf"), json=batch(["a", "bad", "c"]))
    assert answer.status_code == 503


async def test_ungraded_rows_are_pointed_at(graders: Path) -> None:
    judge = FakeJudge(lambda call: verdict("x" if "bad" in prompt(call) else 1.0))
    async with calling(create_app(settings(graders), ports=Ports(judge=judge))) as api:
        url = path("judged", "openrlhf")
        refused = await api.post(url, json=batch(["a", "bad", "c"]))
        chosen = await api.post(f"{url}&on_grader_failure=zero", json=batch(["a", "bad", "c"]))
    assert refused.status_code == 422
    assert [error["pointer"] for error in refused.json()["errors"]] == ["/1"]
    assert chosen.json() == {
        "rewards": [1.0, 0.0, 1.0], "extra_logs": {"grader_failed": [0.0, 1.0, 0.0]},
    }  # fmt: skip


async def test_too_many_rows_are_413(graders: Path) -> None:
    async with calling(create_app(settings(graders, max_batch_rows=2))) as api:
        answer = await api.post(path("exact", "openrlhf"), json=batch(["a"] * 3))
    assert answer.status_code == 413


async def test_no_rows_are_no_rewards(graders: Path) -> None:
    async with calling(create_app(settings(graders))) as api:
        answer = await api.post(path("exact", "openrlhf"), json=batch([]))
    assert answer.json() == {"rewards": []}


async def test_a_large_pure_batch_lets_others_in(graders: Path) -> None:
    async with calling(create_app(settings(graders))) as api:
        rows = [f"text {number}" for number in range(5000)]
        answer = await api.post(path("exact", "openrlhf"), json=batch(rows))
    assert answer.json()["rewards"] == [1.0] * 5000
