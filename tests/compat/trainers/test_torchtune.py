"""Real tensors through our torchtune reward.

torchtune's ``dev.rl`` is in no published wheel; the fields of ``RewardOutput`` are those of
torchtune/dev/rl/rewards.py at commit 2cbffa6138fd9625ff505d648a3829dfa45ced90.
"""

# mypy: disable-error-code="import-not-found"

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Any

import pytest

from service.trainers.torchtune import GraderReward
from tests.compat.trainers.published import stand_in
from tests.trainers.page import snippet
from tests.trainers.servers import definition, flaky, good


@dataclass
class RewardOutput:
    reward_base_name: str
    total_reward: Any
    successes: Any
    rewards: dict[str, Any] | None = field(default_factory=dict)


@pytest.fixture(autouse=True)
def _torchtune(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        sys.modules,
        "torchtune.dev.rl.rewards",
        stand_in("torchtune.dev.rl.rewards", RewardOutput=RewardOutput),
    )
    for name in ("torchtune", "torchtune.dev", "torchtune.dev.rl"):
        monkeypatch.setitem(sys.modules, name, stand_in(name))


def test_the_documented_reward_takes_tensors() -> None:
    import torch

    names: dict[str, Any] = {"completion_ids": torch.ones(2, 5)}
    with flaky(good) as server:
        exec(snippet("torchtune", server.url), names)  # noqa: S102 - our page
    assert torch.equal(names["output"].total_reward, torch.tensor([5.0, 4.0]))
    assert [row["item"] for row in server.bodies[0]["rows"]] == [{"answer": "Paris"}] * 2


def test_a_batch_becomes_tensors() -> None:
    import torch

    reward = GraderReward(definition=definition("parts"))
    output = reward(torch.ones(2, 5), ["Paris", "in Paris"], ["Paris", "Paris"])
    assert output.reward_base_name == "parts"
    assert torch.equal(output.total_reward, torch.tensor([1.0, 0.25]))
    assert torch.equal(output.successes, torch.tensor([1.0, 0.0]))
    assert torch.equal(output.rewards["part"], torch.tensor([1.0, 1.0]))
