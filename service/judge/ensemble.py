"""Several independent draws of one grade, by one judge model or by several, combined.

An ensemble repeats the whole grade under different terms (`JudgeContext`): draw 0 of the
definition's own model is the plain grade and shares its cache. Only draws that a grader really
gave are combined; a draw that failed is reported, and with too few left the ensemble fails as the
first failed draw did. Plain grading knows nothing of this.
"""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from math import fsum, isfinite
from statistics import median
from typing import Annotated, Literal

import msgspec

from graders.grade import Grade, TokenUsage
from service.judge.context import JudgeContext, judging

Method = Literal["mean", "median", "majority"]


class Sampling(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many draws, and what becomes of them.

    Attributes:
        n: Draws by judge model.
        method: ``mean``; ``median``; ``majority``: the most frequent reward, the higher one of
            several equally frequent ones.
        models: Different judge models in the definition's place; empty keeps it.
        at_least: Draws that must succeed; None: more than half of them.

    Raises:
        ValueError: A model comes twice, or more draws must succeed than there are.
    """

    n: Annotated[int, msgspec.Meta(ge=1, le=64)] = 1
    method: Method = "mean"
    models: Annotated[tuple[str, ...], msgspec.Meta(max_length=16)] = ()
    at_least: Annotated[int, msgspec.Meta(ge=1)] | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if len(set(self.models)) != len(self.models):
            raise ValueError("models: each judge model once")
        if (self.at_least or 0) > self.draws:
            raise ValueError(f"at_least: there are only {self.draws} draws")

    @property
    def draws(self) -> int:
        """How many draws there are."""
        return self.n * max(1, len(self.models))


class Draw(msgspec.Struct, frozen=True, kw_only=True):
    """One grade of an ensemble.

    Attributes:
        model: Judge model asked in the definition's place; None for its own.
        sample_index: Number of the draw.
        grade: What it gave.
    """

    model: str | None
    sample_index: int
    grade: Grade


class Ensemble(msgspec.Struct, frozen=True, kw_only=True):
    """All draws together.

    Attributes:
        grade: The combined grade: reward and every sub-reward of ``method`` over the successful
            draws, usage, judgements and diagnostics of all.
        spread: Sample standard deviation of the successful rewards; 0.0 for one.
        minimum: Lowest successful reward; None without any.
        maximum: Highest successful reward; None without any.
        draws: Every draw, by model, then by number.
    """

    grade: Grade
    spread: float
    minimum: float | None
    maximum: float | None
    draws: tuple[Draw, ...]


async def draw(
    once: Callable[[], Awaitable[Grade]], sampling: Sampling, context: JudgeContext
) -> Ensemble:
    """Return the ensemble of ``sampling`` over ``once``.

    Args:
        once: Grades the sample; called once a draw, all draws at the same time.
        sampling: Which draws, and how they are combined.
        context: Terms of the request; the draws count on from its ``sample_index``.
    """

    async def one(model: str | None, index: int) -> Draw:
        changed = {"sample_index": index} | ({} if model is None else {"model": model})
        with judging(msgspec.structs.replace(context, **changed)):
            return Draw(model=model, sample_index=index, grade=await once())

    models: Sequence[str | None] = sampling.models or (None,)
    numbers = range(context.sample_index, context.sample_index + sampling.n)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(model, index)) for model in models for index in numbers]
    return combine([task.result() for task in tasks], sampling)


def combine(draws: Sequence[Draw], sampling: Sampling) -> Ensemble:
    """Return what ``draws``, at least one, give together."""
    good = [one.grade for one in draws if one.grade.ok]
    bad = [one.grade for one in draws if not one.grade.ok]
    rewards = [grade.reward for grade in good]
    if len(good) >= (sampling.at_least or len(draws) // 2 + 1):
        method = sampling.method
        sub_rewards = {
            part: pick([grade.sub_rewards[part] for grade in good], method)
            for part in good[0].sub_rewards
        }
        reward = pick(rewards, method)
        pattern = msgspec.structs.replace(good[0], reward=reward, sub_rewards=sub_rewards)
    else:
        # Nobody gave this reward; a failure of something outside hides behind none of the grader's.
        pattern = next((grade for grade in bad if grade.upstream_failure), bad[0])
    usage: dict[str, TokenUsage] = {}
    for one in draws:
        for model, tokens in one.grade.usage.items():
            usage[model] = usage.get(model, TokenUsage()) + tokens
    judgements = [name for one in draws for name in one.grade.judgements]
    diagnostics = {
        f"draws[{number}]{part and '.'}{part}": told
        for number, one in enumerate(draws)
        for part, told in one.grade.diagnostics.items()
    }
    return Ensemble(
        grade=msgspec.structs.replace(
            pattern,
            usage=usage,
            # The same draws give another reward by another method.
            judgements=(*judgements, f"ensemble:{sampling.method}"),
            diagnostics=diagnostics,
        ),
        spread=_deviation(rewards),
        minimum=min(rewards, default=None),
        maximum=max(rewards, default=None),
        draws=tuple(draws),
    )


def pick(rewards: Sequence[float], method: Method) -> float:
    """Return the reward that ``method`` makes of ``rewards``, at least one; finite as they are."""
    match method:
        case "mean":
            return _mean(rewards)
        case "median":
            middle = float(median(rewards))
            # The sum of the two in the middle may be beyond the largest float.
            return middle if isfinite(middle) else float(median([r / 2 for r in rewards])) * 2
        case "majority":
            counts = Counter(rewards)
            return max(counts, key=lambda reward: (counts[reward], reward))


def _mean(values: Sequence[float]) -> float:
    try:
        return fsum(values) / len(values)
    except OverflowError:
        return fsum(value / len(values) for value in values)


def _deviation(rewards: Sequence[float]) -> float:
    if len(rewards) < 2:  # noqa: PLR2004 - one value has no spread
        return 0.0
    mean = _mean(rewards)
    # Measured in the largest of them, so that squares stay finite.
    unit = max(abs(reward / 2 - mean / 2) for reward in rewards) * 2
    if unit == 0.0:
        return 0.0
    if not isfinite(unit):
        return sys.float_info.max
    squares = fsum(((reward - mean) / unit) ** 2 for reward in rewards)
    return min(unit * float((squares / (len(rewards) - 1)) ** 0.5), sys.float_info.max)
