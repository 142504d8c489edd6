"""AReaL's own wrapper calls our reward function in its worker processes."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service.trainers.areal import make_reward
from service.trainers.errors import UngradedError
from tests.compat.trainers.published import loaded, stand_in
from tests.trainers.page import PAGE, snippet
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


async def test_the_documented_module_is_found_by_its_name_and_called(
    wrapper: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the import that AReaL's workflow makes of a reward function's name."""
    name = re.findall(r'"reward_fn": "([\w.]+)"', PAGE)[0]
    with flaky(good) as server, loaded("areal.utils.dynamic_import") as imports:
        (tmp_path / f"{name.partition('.')[0]}.py").write_text(snippet("areal", server.url))
        monkeypatch.syspath_prepend(tmp_path)
        ask = wrapper(imports.import_from_string(name))
        assert await ask("prompt", "Paris", [1], [2], answer="Paris", messages=[]) == 5.0
    assert server.bodies[0]["rows"][0]["item"] == {"answer": "Paris"}
