"""ms-swift: reward classes for ``orms``, loaded with ``--external_plugins``.

ms-swift calls ``reward_class(args=…)`` once and the instance with the completions and every column.
It takes None for a reward, but adds up what its reward functions gave with None as 0: with a single
reward function that is a 0 which nobody gave, hence failures raise unless you say otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Unpack

from service.trainers.reward import ItemFields, OnOutage, OnUngraded, Reward, make
from service.trainers.source import Where

# What ms-swift adds to the columns of the data set.
_NOT_COLUMNS = frozenset(
    {
        *("trainer_state", "trajectory_inputs", "prompt_id", "request_id", "finish_reason"),
        *("is_truncated", "rollout_infos", "response_token_ids", "completion_ids"),
    }
)


class GraderORM:
    """A reward class as ms-swift's ``ORM``; make subclasses with `make_orm`."""

    reward: ClassVar[Reward]

    def __init__(self, args: object = None, **_: object) -> None:
        """Keep the trainer's arguments, as ``ORM`` does."""
        self.args = args

    def __call__(
        self,
        completions: Sequence[Any],
        **columns: Any,  # noqa: ANN401 - columns of the data set
    ) -> list[float | None]:
        """Return one reward a completion."""
        items = _items(self.reward, completions, columns)
        return [self.reward.given(result) for result in self.reward.grade(items, completions)]


class AsyncGraderORM:
    """A reward class as ms-swift's ``AsyncORM``; make subclasses with `make_async_orm`."""

    reward: ClassVar[Reward]

    def __init__(self, args: object = None, **_: object) -> None:
        """Keep the trainer's arguments, as ``AsyncORM`` does."""
        self.args = args

    async def __call__(
        self,
        completions: Sequence[Any],
        **columns: Any,  # noqa: ANN401 - columns of the data set
    ) -> list[float | None]:
        """Return one reward a completion."""
        items = _items(self.reward, completions, columns)
        results = await self.reward.grade_async(items, completions)
        return [self.reward.given(result) for result in results]


def make_orm(
    *,
    item_fields: ItemFields = None,
    on_ungraded: OnUngraded = "raise",
    on_outage: OnOutage = "raise",
    **where: Unpack[Where],
) -> type[GraderORM]:
    """Return a reward class to put into ``orms``, named after the grader."""
    reward = make(
        where,
        item_fields=item_fields,
        on_ungraded=on_ungraded,
        on_outage=on_outage,
        abstains=True,
    )
    return type(reward.source.name, (GraderORM,), {"reward": reward})


def make_async_orm(
    *,
    item_fields: ItemFields = None,
    on_ungraded: OnUngraded = "raise",
    on_outage: OnOutage = "raise",
    **where: Unpack[Where],
) -> type[AsyncGraderORM]:
    """Return a reward class that runs beside other async ones, named after the grader."""
    reward = make(
        where,
        item_fields=item_fields,
        on_ungraded=on_ungraded,
        on_outage=on_outage,
        abstains=True,
    )
    return type(reward.source.name, (AsyncGraderORM,), {"reward": reward})


def _items(
    reward: Reward, completions: Sequence[Any], columns: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Return the items; ``messages`` without the answer that stands at their end."""
    given = {
        name: column
        for name, column in columns.items()
        if name not in _NOT_COLUMNS and isinstance(column, Sequence) and not isinstance(column, str)
    }
    if "messages" in given:
        given["messages"] = [_asked(messages) for messages in given["messages"]]
    return reward.items(given, len(completions))


def _asked(messages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    answered = bool(messages) and messages[-1].get("role") == "assistant"
    return list(messages[:-1] if answered else messages)
