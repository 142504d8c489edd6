"""The tinker cookbook's own rollout loop runs environments that grade with us."""

# mypy: disable-error-code="import-not-found"

from __future__ import annotations

import types
import warnings
from typing import Any

import pytest

from service.trainers.errors import UngradedError
from service.trainers.tinker import EnvReward, make_reward
from tests.trainers.page import snippet
from tests.trainers.servers import definition, flaky, good


def group(texts: list[str], step_reward: EnvReward, item: dict[str, Any]) -> tuple[Any, Any]:
    """Return a builder of one environment a text, and the policy that says the texts."""
    import tinker
    from tinker_cookbook.completers import TokenCompleter, TokensWithLogprobs
    from tinker_cookbook.rl.types import Env, EnvGroupBuilder, StepResult

    class OneAnswer(Env):  # type: ignore[misc] # not installed with the other tests
        def __init__(self, text: str) -> None:
            self.text = text

        async def initial_observation(self) -> Any:
            return tinker.ModelInput.from_ints([1]), []

        async def step(self, action: list[int], *, extra: Any = None) -> Any:
            graded = await step_reward.grade(self.text, item)
            return StepResult(
                reward=graded.reward,
                metrics=graded.metrics,
                logs=graded.logs,
                episode_done=True,
                next_observation=tinker.ModelInput.empty(),
                next_stop_condition=[],
            )

    class Group(EnvGroupBuilder):  # type: ignore[misc] # not installed with the other tests
        async def make_envs(self) -> Any:
            return [OneAnswer(text) for text in texts]

        async def compute_group_rewards(self, trajectories: Any, envs: Any) -> Any:
            return await step_reward.grade_group([env.text for env in envs], item)

    class Policy(TokenCompleter):  # type: ignore[misc] # not installed with the other tests
        async def __call__(self, *_: Any, **__: Any) -> Any:
            return TokensWithLogprobs(tokens=[1, 2], maybe_logprobs=[-0.1, -0.2])

    return Group(), Policy()


@pytest.fixture
def rollout() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # theirs
        from tinker_cookbook.rl.rollouts import do_group_rollout
    return do_group_rollout


async def test_steps_and_groups_are_graded(rollout: Any) -> None:
    reward = make_reward(definition=definition("parts"))
    builder, policy = group(["Paris", "in Paris", "Rome"], reward, {"answer": "Paris"})
    done = await rollout(builder, policy)
    steps = [trajectory.transitions[0] for trajectory in done.trajectories_G]
    assert [step.reward for step in steps] == [1.0, 0.25, 0.0]
    assert steps[1].metrics == {"passed": 0.0, "ungraded": 0.0, "exact": 0.0, "part": 1.0}
    assert done.final_rewards_G == [1.0, 0.25, 0.0]


async def test_a_failing_rollout_ends_the_group_or_is_retried_as_the_strategy_says(
    rollout: Any,
) -> None:
    from tinker_cookbook.rl.rollout_strategy import RetryOnFailure

    reward = make_reward(definition=definition("needs-json"))
    builder, policy = group(['{"answer": "Paris"}', "no json"], reward, {"answer": "Paris"})
    with pytest.raises(UngradedError):
        await rollout(builder, policy)
    done = await rollout(builder, policy, RetryOnFailure(max_retries=1))
    assert [error.error_type for error in done.rollout_errors] == ["UngradedError"]
    assert done.final_rewards_G == [1.0, 1.0]


async def test_the_documented_step_gives_a_result_of_theirs() -> None:
    import tinker
    from tinker_cookbook.rl.types import StepResult

    renderer = types.SimpleNamespace(parse_response=lambda _: ({"content": "Paris"}, True))
    env = types.SimpleNamespace(renderer=renderer, answer="Paris")
    names: dict[str, Any] = {"tinker": tinker, "StepResult": StepResult}
    with flaky(good) as server:
        exec(snippet("tinker", server.url), names)  # noqa: S102 - our page
        result = await names["step"](env, [1, 2])
    assert (result.reward, result.episode_done) == (5.0, True)
    assert server.bodies[0]["rows"][0]["item"] == {"answer": "Paris"}
