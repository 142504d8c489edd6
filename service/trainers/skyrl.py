"""SkyRL: a single-turn environment, and the step to end environments of your own with.

Register ``service.trainers.skyrl:graded_env`` with SkyRL Gym and name the grader in ``kwargs``.
SkyRL gives every environment the row's columns as ``extras``. A failure raises out of ``step``:
SkyRL knows no reward that is none.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from importlib import import_module
from typing import Any, Unpack

from service.trainers.reward import ItemFields, OnUngraded, Reward, make
from service.trainers.source import Where

StepOutput = dict[str, Any]


def graded_env(
    env_config: object = None,
    extras: Mapping[str, Any] | None = None,
    *,
    item_fields: ItemFields = None,
    on_ungraded: OnUngraded = "raise",
    **where: Unpack[Where],
) -> Any:  # noqa: ANN401 - a skyrl_gym BaseTextEnv, which is not imported here
    """Return an environment whose one step is graded.

    Args:
        env_config: Given by SkyRL; not used.
        extras: Given by SkyRL: the columns of the row. ``reward_spec.ground_truth`` becomes
            ``item.ground_truth``, the others keep their names.
        item_fields: Which of these become fields of the item, and under which name.
        on_ungraded: What a sample that could not be graded gets: ``raise`` or a number.
        where: Where rewards come from; see `Where`.
    """
    del env_config
    reward = make(where, item_fields=item_fields, on_ungraded=on_ungraded)
    return _env_class()(reward, _columns(extras or {}))


def step_output(reward: Reward, action: str, item: Mapping[str, Any]) -> StepOutput:
    """Return what the last ``step`` of an environment returns for ``action``, the model's answer.

    Raises:
        RewardError: There is no reward.
    """
    result = reward.grade([item], [action])[0]
    metadata = {
        "passed": result.passed,
        "ungraded": result.failure is not None,
        "sub_rewards": dict(result.sub_rewards),
    }
    return {
        "observations": [],
        "reward": reward.number(result),
        "done": True,
        "metadata": metadata,
    }


def _columns(extras: Mapping[str, Any]) -> dict[str, Any]:
    spec = extras.get("reward_spec")
    truth = spec if isinstance(spec, Mapping) and "ground_truth" in spec else {}
    return {**extras, **({"ground_truth": truth["ground_truth"]} if truth else {})}


@lru_cache(maxsize=1)
def _env_class() -> type[Any]:
    """Return the environment class, which must inherit from SkyRL's own."""
    base: Any = import_module("skyrl_gym.envs.base_text_env").BaseTextEnv

    class GradedEnv(base):  # type: ignore[misc] # not installed here
        """One answer, one grade."""

        def __init__(self, reward: Reward, columns: Mapping[str, Any]) -> None:
            super().__init__()
            self._reward = reward
            self._item = reward.item(columns)
            self._metrics: dict[str, Any] = {}

        def step(self, action: str) -> StepOutput:
            """Return the graded end of the episode."""
            output = step_output(self._reward, action, self._item)
            metadata = output["metadata"]
            flags = {key: float(metadata[key]) for key in ("passed", "ungraded")}
            self._metrics = {**flags, **metadata["sub_rewards"]}
            return output

        def get_metrics(self) -> dict[str, Any]:
            """Return numbers that SkyRL averages over episodes."""
            return self._metrics

    return GradedEnv
