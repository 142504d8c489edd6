"""verl's own loader and reward managers call `service.trainers.verl` as its configuration says."""

# mypy: disable-error-code="import-not-found"

from __future__ import annotations

import asyncio
import inspect
import types
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from service.trainers import verl as adapter
from service.trainers.errors import UnavailableError, UngradedError
from tests.compat.trainers.published import loaded, stand_in
from tests.trainers.servers import ROOT, definition, flaky, good

MANAGERS = "verl.experimental.reward_loop.reward_manager"


class Data:
    """The parts of verl's ``DataProto`` that reward managers read: one row."""

    def __init__(self, truth: str) -> None:
        import torch

        ones = torch.ones(8, dtype=torch.long)
        self.batch = {"responses": ones[:4], "attention_mask": ones}
        self.non_tensor_batch = {
            "data_source": "geography",
            "reward_model": {"ground_truth": truth},
            "extra_info": {"index": 1},
        }

    def __getitem__(self, _: Any) -> Data:
        return self


@pytest.fixture
def verl() -> Iterator[Any]:
    """The loader, and the managers by name."""
    scores = stand_in(
        "verl.utils.reward_score", get_default_compute_score=None, default_compute_score=None
    )
    top = stand_in("verl", DataProto=Data)
    loop = stand_in("verl.utils.ray_utils", get_event_loop=asyncio.get_running_loop)
    with ExitStack() as stack:
        imports = stack.enter_context(loaded("verl.utils.import_utils"))
        reward = stack.enter_context(loaded("verl.trainer.ppo.reward", top, scores, imports))
        base = stack.enter_context(loaded(f"{MANAGERS}.base", top, loop))
        registry = stack.enter_context(loaded(f"{MANAGERS}.registry", base))
        legacy = stand_in("verl.workers.reward_manager", register=lambda _: lambda kind: kind)
        common = (top, scores, loop, legacy, base, stand_in(MANAGERS, register=registry.register))
        stack.enter_context(loaded(f"{MANAGERS}.naive", *common))
        stack.enter_context(loaded(f"{MANAGERS}.limited", *common))
        # The functions import `load_extern_object` when they are called.
        stack.enter_context(loaded("verl.utils.import_utils", imports))
        yield types.SimpleNamespace(
            function=reward.get_custom_reward_fn, manager=registry.get_reward_manager_cls
        )


@pytest.fixture
def config() -> Callable[..., Any]:
    from omegaconf import OmegaConf

    def build(name: str, path: str = "pkg://service.trainers.verl", **kwargs: Any) -> Any:
        function = {"path": path, "name": name, "reward_kwargs": kwargs}
        return OmegaConf.create({"reward": {"custom_reward_function": function}})

    return build


class Tokenizer:
    def __init__(self, text: str) -> None:
        self.text = text

    def decode(self, _: Any, *, skip_special_tokens: bool) -> str:
        assert skip_special_tokens
        return self.text


@pytest.mark.parametrize("path", ["pkg://service.trainers.verl", adapter.__file__])
@pytest.mark.parametrize("name", ["compute_score", "compute_score_async"])
async def test_the_naive_manager_gets_score_and_metrics(
    verl: Any, config: Any, path: str, name: str
) -> None:
    settings = config(
        name, path, definition=definition("parts"), item_fields={"answer": "ground_truth"}
    )
    function = verl.function(settings)
    assert inspect.iscoroutinefunction(function) == name.endswith("async")
    manager = verl.manager("naive")(settings, Tokenizer("in Paris"), function)
    assert await manager.run_single(Data("Paris")) == {
        "reward_score": 0.25,
        "reward_extra_info": {
            "score": 0.25,
            "acc": 0.0,
            "ungraded": 0.0,
            "sub_rewards/exact": 0.0,
            "sub_rewards/part": 1.0,
        },
    }


async def test_the_naive_manager_lets_a_failure_out(verl: Any, config: Any) -> None:
    settings = config(
        "compute_score", definition=definition("needs-json"), item_fields={"answer": "ground_truth"}
    )
    manager = verl.manager("naive")(settings, Tokenizer("no json"), verl.function(settings))
    with pytest.raises(UngradedError):
        await manager.run_single(Data("Paris"))


async def test_a_wanted_number_comes_with_a_flag(verl: Any, config: Any) -> None:
    settings = config(
        "compute_score_async",
        definition=definition("needs-json"),
        item_fields=["index"],
        on_ungraded=-1.0,
    )
    manager = verl.manager("naive")(settings, Tokenizer("no json"), verl.function(settings))
    given = await manager.run_single(Data("Paris"))
    assert given["reward_score"] == -1.0
    assert given["reward_extra_info"]["ungraded"] == 1.0


async def test_the_rate_limited_manager_makes_a_failure_zero(verl: Any, config: Any) -> None:
    """What the documentation warns of: verl's doing, not ours."""
    settings = config("compute_score", url="http://127.0.0.1:1", grader="a@1", deadline_s=0.1)
    function = verl.function(settings)
    with pytest.raises(UnavailableError):
        function(data_source="", solution_str="x", ground_truth="", extra_info={})
    manager = verl.manager("rate_limited")(settings, Tokenizer("x"), function)
    given = await manager.run_single(Data("Paris"))
    assert given["reward_score"] == 0.0
    assert "server_unavailable" in given["reward_extra_info"]["error"]


async def test_the_documented_flags_work(verl: Any) -> None:
    import re

    from omegaconf import OmegaConf

    page = (ROOT / "docs" / "trainers.md").read_text("utf-8")
    flags = re.findall(r"(reward\.custom_reward_function\.[\w.]+=(?:{[^}]+}|[^\s'\\]+))", page)
    settings = OmegaConf.from_dotlist(flags)
    with flaky(good) as server:
        settings.reward.custom_reward_function.reward_kwargs.url = server.url
        manager = verl.manager("naive")(settings, Tokenizer("Paris"), verl.function(settings))
        assert (await manager.run_single(Data("Paris")))["reward_score"] == 5.0
    assert server.bodies[0]["rows"][0]["item"] == {"answer": "Paris"}
