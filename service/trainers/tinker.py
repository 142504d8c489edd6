"""tinker: rewards for the environments of the tinker cookbook.

``Env.step`` and ``EnvGroupBuilder.compute_group_rewards`` are coroutines; `EnvReward` gives each of
them what it returns. A failure raises, which the cookbook's rollout strategies count, retry or
leave out of the group.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Unpack

from service.trainers.reward import ItemFields, OnUngraded, Reward, make
from service.trainers.rows import Result
from service.trainers.source import Where

Metrics = dict[str, float | int]


@dataclass(frozen=True)
class Graded:
    """What one answer got, in the fields of the cookbook's ``StepResult``.

    Attributes:
        reward: The reward.
        metrics: ``passed``, ``ungraded`` and the sub-rewards, averaged in the training log.
        logs: For people: the grader, and why there is no reward of its own.
    """

    reward: float
    metrics: Metrics
    logs: dict[str, str | int | float]


@dataclass(frozen=True)
class EnvReward:
    """Grades answers for environments; can be pickled with an ``EnvGroupBuilder``."""

    reward: Reward

    async def grade(self, answer: object, item: Mapping[str, Any]) -> Graded:
        """Return what ``answer`` (a text, a message, or messages) gets.

        Raises:
            RewardError: There is no reward.
        """
        results = await self.reward.grade_async([self.reward.item(item)], [answer])
        return self._graded(results[0])

    async def grade_group(
        self, answers: Sequence[Any], item: Mapping[str, Any]
    ) -> list[tuple[float, Metrics]]:
        """Return what ``compute_group_rewards`` returns: all answers to one item, in one request.

        Raises:
            RewardError: One of them has no reward.
        """
        chosen = self.reward.item(item)
        results = await self.reward.grade_async([chosen] * len(answers), answers)
        graded = [self._graded(result) for result in results]
        return [(one.reward, one.metrics) for one in graded]

    def _graded(self, result: Result) -> Graded:
        failure = result.failure
        return Graded(
            reward=self.reward.number(result),
            metrics={
                "passed": float(result.passed),
                "ungraded": float(failure is not None),
                **result.sub_rewards,
            },
            logs={
                "grader": self.reward.source.grader or self.reward.source.name,
                **({"failure": failure.code} if failure else {}),
            },
        )


def make_reward(
    *,
    item_fields: ItemFields = None,
    on_ungraded: OnUngraded = "raise",
    **where: Unpack[Where],
) -> EnvReward:
    """Return what grades answers inside ``Env.step`` and ``compute_group_rewards``."""
    return EnvReward(make(where, item_fields=item_fields, on_ungraded=on_ungraded))
