"""TRL and Unsloth: reward functions for `GRPOTrainer` and the other online trainers.

The trainer calls ``f(prompts=…, completions=…, completion_ids=…, **columns)`` with every other
dataset column, ``trainer_state``, ``log_extra`` and ``log_metric``, and takes one float or None a
completion. None keeps a completion out of the baseline and gives it no advantage (TRL 1.x); before
that, None from every reward function counted as 0, so older trainers want ``on_ungraded="raise"``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeAlias, TypeVar, Unpack

from service.trainers.reward import ItemFields, OnOutage, OnUngraded, Reward, make
from service.trainers.rows import Result
from service.trainers.source import Where

RewardFunction: TypeAlias = Callable[..., list[float | None]]
AsyncRewardFunction: TypeAlias = Callable[..., Awaitable[list[float | None]]]
FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])

# What the trainer adds to the columns of the data set.
_NOT_COLUMNS = frozenset({"trainer_state", "log_extra", "log_metric", "environments"})


def make_reward(
    *,
    item_fields: ItemFields = None,
    on_ungraded: OnUngraded = None,
    on_outage: OnOutage = None,
    **where: Unpack[Where],
) -> RewardFunction:
    """Return a plain reward function, named after the grader."""
    reward = make(
        where,
        item_fields=item_fields,
        on_ungraded=on_ungraded,
        on_outage=on_outage,
        abstains=True,
    )

    def reward_function(
        prompts: Sequence[Any],
        completions: Sequence[Any],
        **columns: Any,  # noqa: ANN401 - columns of the data set
    ) -> list[float | None]:
        results = reward.grade(_items(reward, prompts, columns), completions)
        return _answer(reward, results, columns)

    return _named(reward_function, reward)


def make_async_reward(
    *,
    item_fields: ItemFields = None,
    on_ungraded: OnUngraded = None,
    on_outage: OnOutage = None,
    **where: Unpack[Where],
) -> AsyncRewardFunction:
    """Return a coroutine function, which runs beside the trainer's other async reward functions."""
    reward = make(
        where,
        item_fields=item_fields,
        on_ungraded=on_ungraded,
        on_outage=on_outage,
        abstains=True,
    )

    async def reward_function(
        prompts: Sequence[Any],
        completions: Sequence[Any],
        **columns: Any,  # noqa: ANN401 - columns of the data set
    ) -> list[float | None]:
        results = await reward.grade_async(_items(reward, prompts, columns), completions)
        return _answer(reward, results, columns)

    return _named(reward_function, reward)


def _items(reward: Reward, prompts: Sequence[Any], columns: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the items: the data set's columns, and the prompt."""
    given = {name: column for name, column in columns.items() if name not in _NOT_COLUMNS}
    given.pop("completion_ids", None)
    return reward.items({**given, "prompt": prompts}, len(prompts))


def _answer(
    reward: Reward, results: Sequence[Result], columns: dict[str, Any]
) -> list[float | None]:
    """Return the rewards, after logging how many there are not and the means of the parts."""
    log_metric, log_extra = columns.get("log_metric"), columns.get("log_extra")
    name = reward.source.name
    if log_metric is not None and results:
        failures = [result.failure for result in results if result.failure]
        outages = sum(failure.outage for failure in failures)
        log_metric(f"{name}/outage", outages / len(results))
        log_metric(f"{name}/ungraded", (len(failures) - outages) / len(results))
        graded = [result for result in results if result.failure is None]
        for part in graded[0].sub_rewards if graded else ():
            log_metric(f"{name}/{part}", sum(r.sub_rewards[part] for r in graded) / len(graded))
    if log_extra is not None:
        log_extra(f"{name}/failure", [r.failure.code if r.failure else "" for r in results])
    return [reward.given(result) for result in results]


def _named(function: FunctionT, reward: Reward) -> FunctionT:
    """Return ``function`` with the grader's name, under which the trainer logs it."""
    function.__name__ = function.__qualname__ = reward.source.name
    return function
