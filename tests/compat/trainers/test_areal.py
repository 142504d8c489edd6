"""AReaL's own wrapper calls our reward function in its worker processes."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest

from service.trainers.areal import make_reward
from service.trainers.errors import UngradedError
from tests.compat.trainers.published import loaded, stand_in
from tests.trainers.servers import definition, flaky, good


@pytest.fixture
def wrapper() -> Iterator[Any]:
    with loaded("areal.api.reward_api", stand_in("areal.utils", logging=logging)) as module:
        yield module.AsyncRewardWrapper
        module.AsyncRewardWrapper._atexit_shutdown_all()


async def test_a_reward_comes_back_from_a_worker_process(wrapper: Any) -> None:
    reward = make_reward(definition=definition("capital"))
    assert await wrapper(reward)("prompt", "Paris", [1], [2], answer="Paris", messages=[]) == 1.0


async def test_workers_keep_their_connections(wrapper: Any) -> None:
    with flaky(good) as server:
        ask = wrapper(make_reward(url=server.url, grader="a@1"), max_workers=1)
        assert [await ask("p", "x" * n, [1], [2]) for n in range(5)] == [0, 1, 2, 3, 4]
    assert server.connections == 1


async def test_a_failure_raises_after_its_retries_which_rejects_the_rollout(wrapper: Any) -> None:
    reward = make_reward(definition=definition("needs-json"))
    with pytest.raises(UngradedError, match="invalid_variable"):
        await wrapper(reward, max_retries=1)("prompt", "no json", [1], [2], answer="Paris")
