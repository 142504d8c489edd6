"""torchtune: a ``Reward`` for its GRPO recipes.

A recipe calls ``reward(completion_ids, completions, answers)`` and takes a ``RewardOutput`` of
tensors. A failure raises: NaN would spread through the group's advantages.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any, Unpack

from service.trainers.reward import OnUngraded, Reward, make
from service.trainers.source import Where


class GraderReward:
    """Callable as torchtune's ``Reward``."""

    def __init__(
        self,
        *,
        answer_field: str = "answer",
        on_ungraded: OnUngraded = "raise",
        **where: Unpack[Where],
    ) -> None:
        """Grade with the answer as ``item.<answer_field>``, all that torchtune hands to rewards."""
        self._answer_field = answer_field
        self._reward: Reward = make(where, on_ungraded=on_ungraded)

    def __call__(
        self,
        completion_ids: object,
        completions: Sequence[str],
        answers: Sequence[str],
    ) -> Any:  # noqa: ANN401 - a torchtune RewardOutput, which is not imported here
        """Return total rewards, successes (passed or not) and sub-rewards, one a completion.

        Raises:
            RewardError: There is no reward.
        """
        torch = import_module("torch")
        output = import_module("torchtune.dev.rl.rewards").RewardOutput
        items = [{self._answer_field: answer} for answer in answers]
        results = self._reward.grade(items, completions)
        device = getattr(completion_ids, "device", None)

        def tensor(values: Sequence[float]) -> Any:  # noqa: ANN401 - a tensor
            return torch.tensor(values, dtype=torch.float32, device=device)

        parts = sorted({key for result in results for key in result.sub_rewards})
        return output(
            reward_base_name=self._reward.source.name,
            total_reward=tensor([self._reward.number(result) for result in results]),
            successes=tensor([float(result.passed) for result in results]),
            rewards={key: tensor([r.sub_rewards.get(key, 0.0) for r in results]) for key in parts},
        )
