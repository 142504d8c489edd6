"""Reward baselines: read strictly, exported as they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from graders.ports import Ports
from service.app import StartError, create_app
from service.baselines import BaselinesError, load_baselines
from tests.api.world import calling, metric, settings

GENE = 'grader="gene-ranking",version="2"'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "baselines.json"
    path.write_text('{"gene-ranking@2": {"mean": -0.25, "std": 0.5}}')
    return path


async def test_are_exported(file: Path, definitions: Path) -> None:
    app = create_app(settings(definitions, reward_baselines_file=str(file)), ports=Ports())
    async with calling(app) as client:
        text = (await client.get("/metrics")).text
    assert metric(text, f"gradekeeper_reward_baseline_mean{{{GENE}}}") == -0.25
    assert metric(text, f"gradekeeper_reward_baseline_std{{{GENE}}}") == 0.5


def test_without_a_file_there_are_none() -> None:
    assert load_baselines("") == {}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("{", "is not valid: Input data was truncated"),
        ('{"gene@1": {"mean": 1}}', "missing required field `std` - at `$[...]`"),
        ('{"gene@1": {"mean": 1, "std": -1}}', ">= 0.0"),
        ('{"gene@1": {"mean": 1, "std": 1, "n": 3}}', "unknown field `n`"),
        ('{"gene": {"mean": 1, "std": 1}}', "'gene' is no name@version with a version number"),
        ('{"gene@latest": {"mean": 1, "std": 1}}', "'gene@latest' is no name@version"),
        (b"\xff", "is not valid"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_with_the_reason(
    file: Path, content: str | bytes, problem: str
) -> None:
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(BaselinesError) as caught:
        load_baselines(str(file))
    assert problem in str(caught.value)


def test_a_missing_file_stops_the_start(file: Path, definitions: Path) -> None:
    file.unlink()
    with pytest.raises(StartError, match=r"^GRADEKEEPER_REWARD_BASELINES_FILE: .* No such file"):
        create_app(settings(definitions, reward_baselines_file=str(file)), ports=Ports())
