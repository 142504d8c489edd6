"""verl: ``compute_score`` for ``reward.custom_reward_function``.

Everything is configuration: ``path: pkg://service.trainers.verl``, ``name: compute_score`` (or
``compute_score_async``), and the grader under ``reward_kwargs``. A failure raises; verl's
``rate_limited`` manager turns that into 0.0 with an ``error`` key, the others stop the run.
verl makes one array a key over the whole batch, so that every answer has the same keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Unpack

from service.trainers.reward import ItemFields, OnUngraded, Reward, make
from service.trainers.rows import Result
from service.trainers.source import Where


def compute_score(  # noqa: PLR0913 - verl's arguments and our settings
    data_source: str,
    solution_str: str,
    ground_truth: object,
    extra_info: Mapping[str, Any] | None = None,
    *,
    reward_router_address: str | None = None,
    reward_model_tokenizer: object = None,
    item_fields: ItemFields = None,
    on_ungraded: OnUngraded = "raise",
    **where: Unpack[Where],
) -> dict[str, float]:
    """Return the ``score`` of one response, ``acc`` (1 when it passes) and its sub-rewards.

    Args:
        data_source: Becomes ``item.data_source``.
        solution_str: The response.
        ground_truth: Becomes ``item.ground_truth``.
        extra_info: Its keys become fields of the item too.
        reward_router_address: Given by verl beside a reward model; not used.
        reward_model_tokenizer: The same.
        item_fields: Which of these become fields of the item, and under which name.
        on_ungraded: What a sample that could not be graded gets: ``raise`` or a number.
        where: Where rewards come from; see `Where`.

    Raises:
        RewardError: There is no reward.
    """
    del reward_router_address, reward_model_tokenizer
    reward = _reward(where, item_fields, on_ungraded)
    item = _item(reward, data_source, ground_truth, extra_info)
    return _answer(reward, reward.grade([item], [solution_str])[0])


async def compute_score_async(  # noqa: PLR0913 - verl's arguments and our settings
    data_source: str,
    solution_str: str,
    ground_truth: object,
    extra_info: Mapping[str, Any] | None = None,
    *,
    reward_router_address: str | None = None,
    reward_model_tokenizer: object = None,
    item_fields: ItemFields = None,
    on_ungraded: OnUngraded = "raise",
    **where: Unpack[Where],
) -> dict[str, float]:
    """Return the same as `compute_score` without holding up verl's event loop."""
    del reward_router_address, reward_model_tokenizer
    reward = _reward(where, item_fields, on_ungraded)
    item = _item(reward, data_source, ground_truth, extra_info)
    return _answer(reward, (await reward.grade_async([item], [solution_str]))[0])


def _reward(where: Where, item_fields: ItemFields, on_ungraded: OnUngraded) -> Reward:
    """Return the reward; its connections are kept from call to call."""
    return make(where, item_fields=item_fields, on_ungraded=on_ungraded)


def _item(
    reward: Reward, data_source: str, ground_truth: object, extra_info: Mapping[str, Any] | None
) -> dict[str, Any]:
    given = {"data_source": data_source, "ground_truth": ground_truth}
    return reward.item({**(extra_info or {}), **given})


def _answer(reward: Reward, result: Result) -> dict[str, float]:
    return {
        "score": reward.number(result),
        "acc": float(result.passed),
        "ungraded": float(result.failure is not None),
        **{f"sub_rewards/{key}": value for key, value in result.sub_rewards.items()},
    }
