"""Group-relative grading: statistics over the rows that have a reward."""

from __future__ import annotations

import math
import statistics
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.app import create_app
from service.groups import grouped, ranks_of, statistics_of
from service.wire import RowResult
from tests.api.world import calling, lines, read_lines, settings

finite = st.floats(allow_nan=False, allow_infinity=False)


def result(reward: float, *, ok: bool = True) -> RowResult:
    return RowResult(reward=reward, ok=ok, passed=ok)


def test_failed_rows_are_left_out() -> None:
    rows = [result(1.0), result(0.0, ok=False), result(0.0), result(5.0)]
    placed, found = grouped(rows, ["a", "a", "a", None])
    assert found is not None
    assert found["a"].rows == 3
    assert (found["a"].ok, found["a"].mean) == (2, 0.5)
    assert found["a"].std == pytest.approx(math.sqrt(0.5))
    assert [row.rank for row in placed] == [1, None, 2, None]
    assert placed[0].advantage == pytest.approx(math.sqrt(0.5), abs=1e-5)
    assert placed[1].advantage is None
    assert placed[3] == rows[3]


def test_no_group_changes_nothing() -> None:
    rows = [result(1.0)]
    assert grouped(rows, [None]) == (rows, None)


def test_a_group_without_any_reward_has_no_mean() -> None:
    _, found = grouped([result(0.0, ok=False)], ["a"])
    assert found is not None
    assert (found["a"].mean, found["a"].std, found["a"].ok) == (None, None, 0)


def test_equal_rewards_have_no_advantage_and_share_a_rank() -> None:
    placed, _ = grouped([result(0.1)] * 3, ["a"] * 3)
    assert [(row.advantage, row.rank) for row in placed] == [(0.0, 1)] * 3


def test_ranks_count_from_the_highest() -> None:
    assert ranks_of([0.5, 1.0, 0.5, 0.0]) == [2, 1, 2, 4]


@pytest.mark.property
@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=16))
def test_statistics_agree_with_the_standard_library(rewards: list[float]) -> None:
    found = statistics_of(rewards, rows=len(rewards))
    assert found.mean == pytest.approx(statistics.fmean(rewards), rel=1e-9, abs=1e-9)
    assert found.std == pytest.approx(statistics.stdev(rewards), rel=1e-6, abs=1e-7)


@pytest.mark.property
@given(st.lists(finite, min_size=1, max_size=8))
def test_every_number_is_finite(rewards: list[float]) -> None:
    placed, found = grouped([result(reward) for reward in rewards], ["a"] * len(rewards))
    assert found is not None
    assert math.isfinite(found["a"].mean or 0.0)
    assert math.isfinite(found["a"].std or 0.0)
    assert all(math.isfinite(row.advantage or 0.0) for row in placed)


def test_the_largest_rewards_do_not_overflow() -> None:
    top = sys.float_info.max
    placed, found = grouped([result(top), result(-top)], ["a", "a"])
    assert found is not None
    assert found["a"].mean == 0.0
    assert [row.advantage for row in placed] == [1.0, -1.0]


async def test_a_batch_names_groups(graders: Path) -> None:
    rows = [
        {"item": {"answer": "a"}, "model_sample": text, "group": group}
        for group, text in (("p", "a"), ("p", "b"), ("q", "a"))
    ]
    async with calling(create_app(settings(graders))) as api:
        url = "/v1/graders/exact/versions/1/score/batch"
        body = (await api.post(url, json={"rows": rows})).json()
        assert body["groups"]["p"] == {
            "rows": 2, "ok": 2, "mean": 0.5, "std": pytest.approx(0.70710678),
        }  # fmt: skip
        assert [row["group"] for row in body["results"]] == ["p", "p", "q"]
        assert [row["rank"] for row in body["results"]] == [1, 2, 1]
        del rows[0]["group"], rows[1]["group"], rows[2]["group"]
        assert "groups" not in (await api.post(url, json={"rows": rows})).json()


async def test_a_stream_refuses_groups(graders: Path) -> None:
    row = {"item": {"answer": "a"}, "model_sample": "a", "group": "p"}
    async with calling(create_app(settings(graders))) as api:
        answer = await api.post(
            "/v1/graders/exact/versions/1/score/batch",
            content=lines([row]),
            headers={"content-type": "application/x-ndjson"},
        )
    assert "send and accept JSON" in read_lines(answer.content)[0]["error"]["message"]
