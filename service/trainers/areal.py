"""AReaL: ``reward_fn`` for ``RLVRWorkflow`` and its relatives.

AReaL calls ``f(prompt, completion, prompt_ids, completion_ids, **row)`` in a worker process, four
times at most, and takes 0 for the reward when the fourth call lasts longer than 15 s; a call that
raises rejects the rollout instead. Hence the deadline is 12 s here, after which the call raises.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Unpack

from service.trainers.reward import ItemFields, OnUngraded, Reward, make
from service.trainers.source import Where

_DEADLINE_S = 12.0


@dataclass(frozen=True)
class RewardFunction:
    """A reward function that can be pickled, as AReaL's worker processes need it."""

    reward: Reward

    def __call__(
        self,
        prompt: str,
        completions: str,
        prompt_ids: Sequence[int] | None = None,
        completion_ids: Sequence[int] | None = None,
        **data: Any,  # noqa: ANN401 - columns of the data set
    ) -> float:
        """Return the reward of one completion.

        Args:
            prompt: Becomes ``item.prompt``, beside the columns of the data set.
            completions: The completion; one, as AReaL calls it.
            prompt_ids: Not used.
            completion_ids: Not used.
            data: The columns of the data set.

        Raises:
            RewardError: There is no reward.
        """
        del prompt_ids, completion_ids
        item = self.reward.item({**data, "prompt": prompt})
        return self.reward.number(self.reward.grade([item], [completions])[0])


def make_reward(
    *,
    item_fields: ItemFields = None,
    on_ungraded: OnUngraded = "raise",
    **where: Unpack[Where],
) -> RewardFunction:
    """Return a reward function; keep ``deadline_s`` below AReaL's 15 s."""
    where.setdefault("deadline_s", _DEADLINE_S)
    return RewardFunction(make(where, item_fields=item_fields, on_ungraded=on_ungraded))
