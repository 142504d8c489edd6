"""Every snippet of docs/trainers.md runs against a server as it stands there."""

import asyncio
import re
import sys
import types
from typing import Any

import pytest

from service.trainers import skyrl
from service.trainers import verl as verl_adapter
from tests.trainers.page import ADDRESS, SNIPPETS
from tests.trainers.servers import KEY


class Recorder:
    """Takes the place of whatever a trainer's package offers."""

    def __init__(self, **given: Any) -> None:
        self.given = given

    def train(self) -> None:
        """Do nothing."""


@pytest.fixture
def run(url: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run a snippet with the server's address and the tests' key; give its names."""

    def execute(name: str, names: dict[str, Any] | None = None, **modules: Any) -> dict[str, Any]:
        for module, content in modules.items():
            parts = module.split("__")
            for n in range(1, len(parts)):
                parent = ".".join(parts[:n])
                monkeypatch.setitem(sys.modules, parent, types.ModuleType(parent))
            monkeypatch.setitem(sys.modules, ".".join(parts), content)
        code = SNIPPETS[name].replace(f'"{ADDRESS}"', f'"{url}", key="{KEY}"')
        code = code.replace(f'"url": "{url}", key="{KEY}"', f'"url": "{url}", "key": "{KEY}"')
        found = dict(names or {})
        exec(compile(code, f"docs/trainers.md: {name}", "exec"), found)  # noqa: S102 - our page
        return found

    return execute


def test_every_trainer_has_a_snippet() -> None:
    trainers = {"trl", "verl", "ms_swift", "areal", "skyrl", "torchtune", "tinker", "native"}
    assert set(SNIPPETS) == trainers


def test_trl(run: Any) -> None:
    trl = types.SimpleNamespace(GRPOConfig=Recorder, GRPOTrainer=Recorder)
    names = run("trl", {"model": "m", "dataset": "d"}, trl=trl)
    (function,) = names["trainer"].given["reward_funcs"]
    messages = [[{"role": "assistant", "content": text}] for text in ("Paris", "Rome")]
    given = function(prompts=["", ""], completions=messages, solution=["Paris", "Paris"])
    assert asyncio.run(given) == [1.0, 0.0]


def test_verl(url: str) -> None:
    flags = re.findall(
        r"reward\.custom_reward_function\.([\w.]+)=({[^}]+}|[^\s'\\]+)", SNIPPETS["verl"]
    )
    settings = dict(flags)
    assert settings.pop("path") == "pkg://service.trainers.verl"
    function = getattr(verl_adapter, settings.pop("name"))
    kwargs: dict[str, Any] = {key.removeprefix("reward_kwargs."): v for key, v in settings.items()}
    assert kwargs["url"] == ADDRESS
    assert kwargs["item_fields"] == "{answer: ground_truth}"  # as OmegaConf reads it:
    kwargs |= {"url": url, "key": KEY, "item_fields": {"answer": "ground_truth"}}
    call = function(
        data_source="geo", solution_str="Paris", ground_truth="Paris", extra_info={}, **kwargs
    )
    assert asyncio.run(call) == {"score": 1.0, "acc": 1.0, "ungraded": 0.0}


def test_ms_swift(run: Any) -> None:
    orms: dict[str, Any] = {}
    run("ms_swift", swift__rewards=types.SimpleNamespace(orms=orms))
    instance = orms["exact"](args=None)
    assert asyncio.run(instance(["Paris", "Rome"], solution=["Paris"] * 2)) == [1.0, 0.0]


def test_areal(run: Any) -> None:
    assert run("areal")["exact"]("p", "Paris", [1], [2], answer="Paris", messages=[]) == 1.0


def test_skyrl(run: Any) -> None:
    registered: dict[str, Any] = {}
    gym = types.ModuleType("skyrl_gym")
    gym.register = registered.update  # type: ignore[attr-defined] # a stand-in
    run("skyrl", skyrl_gym=gym)
    module, _, name = registered["entry_point"].partition(":")
    text_env = types.SimpleNamespace(BaseTextEnv=type("BaseTextEnv", (), {}))
    skyrl._env_class.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "skyrl_gym.envs", types.ModuleType("skyrl_gym.envs"))
        patch.setitem(sys.modules, "skyrl_gym.envs.base_text_env", text_env)
        assert module == skyrl.__name__
        make = getattr(skyrl, name)
        extras = {"reward_spec": {"ground_truth": "Paris"}}
        env = make(env_config={}, extras=extras, **registered["kwargs"])
        assert env.step("Paris")["reward"] == 1.0
    skyrl._env_class.cache_clear()


def test_torchtune(run: Any) -> None:
    torch = types.SimpleNamespace(float32=0, tensor=lambda values, **_: values)
    rewards = types.SimpleNamespace(RewardOutput=types.SimpleNamespace)
    names = run(
        "torchtune", {"completion_ids": None}, torch=torch, torchtune__dev__rl__rewards=rewards
    )
    assert names["output"].total_reward == [1.0, 0.0]


def test_tinker(run: Any) -> None:
    tinker = types.SimpleNamespace(ModelInput=types.SimpleNamespace(empty=list))
    names = run("tinker", {"StepResult": types.SimpleNamespace, "tinker": tinker})
    renderer = types.SimpleNamespace(parse_response=lambda _: ({"content": "Paris"}, True))
    env = types.SimpleNamespace(renderer=renderer, answer="Paris")
    result = asyncio.run(names["step"](env, [1, 2]))
    assert (result.reward, result.episode_done) == (1.0, True)
    assert asyncio.run(names["exact"].grade_group(["Paris"], {"answer": "Paris"}))[0][0] == 1.0


def test_native(run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    run("native")
    assert capsys.readouterr().out == "1.0 True None\n0.0 False None\n"
