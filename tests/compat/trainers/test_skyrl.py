"""SkyRL Gym registers, makes and steps our environment."""

# mypy: disable-error-code="import-not-found"

from __future__ import annotations

import pytest

from service.trainers.errors import UngradedError
from tests.trainers.page import snippet
from tests.trainers.servers import definition, flaky, good


def test_the_environment_is_made_by_name_and_steps_once() -> None:
    import skyrl_gym
    from skyrl_gym.envs.registration import deregister

    skyrl_gym.register(
        id="graded",
        entry_point="service.trainers.skyrl:graded_env",
        kwargs={"definition": definition("truth")},
    )
    try:
        extras = {"reward_spec": {"method": "rule", "ground_truth": "Paris"}, "max_turns": 1}
        env = skyrl_gym.make("graded", env_config={}, extras=extras)
        prompt = [{"role": "user", "content": "Capital of France?"}]
        assert env.init(prompt) == (prompt, {})
        output = env.step("Paris")
        assert (output["reward"], output["done"], output["observations"]) == (1.0, True, [])
        assert env.aggregate_metrics([env.get_metrics()])["passed"] == 1.0
        env.close()
    finally:
        deregister("graded")


def test_a_failure_raises_out_of_the_step() -> None:
    from skyrl_gym import Env

    from service.trainers.skyrl import graded_env

    env = graded_env(extras={"answer": "x"}, definition=definition("needs-json"))
    assert isinstance(env, Env)
    with pytest.raises(UngradedError):
        env.step("no json")


def test_the_documented_registration_makes_an_environment() -> None:
    import skyrl_gym
    from skyrl_gym.envs.registration import deregister

    with flaky(good) as server:
        exec(snippet("skyrl", server.url), {})  # noqa: S102 - our page
        try:
            extras = {"reward_spec": {"method": "rule", "ground_truth": "Paris"}}
            env = skyrl_gym.make("exact", env_config={}, extras=extras)
            assert env.step("Paris")["reward"] == 5.0
        finally:
            deregister("exact")
    assert server.bodies[0]["rows"][0]["item"] == {"answer": "Paris"}
