"""Several draws of one grade, combined."""

from __future__ import annotations

from math import isfinite
from typing import Any

import pytest

from graders.errors import JudgeUnavailableError, ModelGraderParseError
from graders.grade import Failure, Grade, TokenUsage
from service.judge import JudgeContext, Sampling, combine, current_context, draw
from service.judge.ensemble import Draw, pick

USAGE = {"m": TokenUsage(prompt_tokens=10, total_tokens=10)}


def good(reward: float) -> Grade:
    return Grade(reward=reward, usage=USAGE, judgements=(f"m:{reward}",))


PARSE = Grade(reward=0.0, failures=(Failure.of(ModelGraderParseError("no number")),))
DOWN = Grade(reward=0.0, failures=(Failure.of(JudgeUnavailableError("down")),))


def draws(*grades: Grade) -> list[Draw]:
    return [Draw(model=None, sample_index=i, grade=grade) for i, grade in enumerate(grades)]


@pytest.mark.parametrize(
    ("method", "rewards", "reward"),
    [
        ("mean", [0.1, 0.2, 0.6], 0.3),
        ("median", [0.1, 0.2, 0.9], 0.2),
        ("median", [0.0, 1.0], 0.5),
        ("majority", [1.0, 0.0, 1.0], 1.0),
        ("majority", [0.0, 1.0], 1.0),
    ],
)
def test_methods(method: str, rewards: list[float], reward: float) -> None:
    assert pick(rewards, method) == pytest.approx(reward)  # type: ignore[arg-type]


def test_spread_usage_and_judgements_cover_all_draws() -> None:
    result = combine(draws(good(0.0), good(1.0)), Sampling(n=2))
    assert result.grade.reward == 0.5
    assert result.spread == pytest.approx(0.7071, abs=1e-4)
    assert (result.minimum, result.maximum) == (0.0, 1.0)
    assert result.grade.usage["m"].total_tokens == 20
    assert result.grade.judgements == ("m:0.0", "m:1.0", "ensemble:mean")


def test_failed_draws_are_left_out_and_never_count_as_zero() -> None:
    result = combine(draws(good(0.8), DOWN, good(1.0)), Sampling(n=3))
    assert result.grade.ok
    assert result.grade.reward == pytest.approx(0.9)
    assert [one.grade.ok for one in result.draws] == [True, False, True]


def test_too_few_good_draws_are_a_failure_of_the_outside_first() -> None:
    result = combine(draws(good(1.0), PARSE, DOWN), Sampling(n=3))
    assert not result.grade.ok
    assert result.grade.upstream_failure is not None
    assert combine(draws(good(1.0), PARSE, DOWN), Sampling(n=3, at_least=1)).grade.ok
    only = combine(draws(PARSE), Sampling())
    assert (only.grade.failures, only.minimum, only.spread) == (PARSE.failures, None, 0.0)


async def test_draws_differ_in_number_and_model_only() -> None:
    seen: list[tuple[int, str | None, str]] = []

    async def once() -> Grade:
        context = current_context()
        seen.append((context.sample_index, context.model, context.api_key))
        return good(1.0)

    context = JudgeContext(api_key="k", sample_index=5)
    plain = await draw(once, Sampling(n=2), context)
    assert seen == [(5, None, "k"), (6, None, "k")]
    assert plain.grade.reward == 1.0
    seen.clear()
    await draw(once, Sampling(n=2, models=("a", "b")), context)
    assert seen == [(5, "a", "k"), (6, "a", "k"), (5, "b", "k"), (6, "b", "k")]
    assert current_context() == JudgeContext()


LARGEST = 1.7e308


@pytest.mark.parametrize("method", ["mean", "median", "majority"])
@pytest.mark.parametrize("rewards", [[LARGEST, LARGEST], [LARGEST, -LARGEST], [-LARGEST] * 4])
def test_largest_rewards_stay_finite(method: Any, rewards: list[float]) -> None:
    result = combine(draws(*map(good, rewards)), Sampling(n=len(rewards), method=method))
    assert isfinite(result.grade.reward)
    assert isfinite(result.spread)
    assert min(rewards) <= result.grade.reward <= max(rewards)


def test_spread_of_equal_and_of_tiny_rewards() -> None:
    assert combine(draws(good(0.5), good(0.5)), Sampling(n=2)).spread == 0.0
    tiny = combine(draws(good(1e-200), good(3e-200)), Sampling(n=2)).spread
    assert tiny == pytest.approx(1.41421356e-200)
    far = combine(draws(good(LARGEST), good(LARGEST / 2), good(LARGEST / 3)), Sampling(n=3)).spread
    assert far == pytest.approx(LARGEST * 0.346944, rel=1e-4)


def test_sub_rewards_and_diagnostics_cover_all_draws() -> None:
    grades = [
        Grade(reward=r, sub_rewards={"a": r, "b": 1.0}, diagnostics={"a": {"cost_usd": 0.5}})
        for r in (0.0, 1.0)
    ]
    combined = combine(draws(*grades), Sampling(n=2)).grade
    assert combined.sub_rewards == {"a": 0.5, "b": 1.0}
    assert combined.diagnostics == {
        "draws[0].a": {"cost_usd": 0.5},
        "draws[1].a": {"cost_usd": 0.5},
    }


@pytest.mark.parametrize(
    "fields", [{"models": ("a", "a")}, {"n": 2, "at_least": 3}, {"models": ("a",), "at_least": 2}]
)
def test_sampling_that_cannot_be_meant(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"^(models|at_least): "):
        Sampling(**fields)
