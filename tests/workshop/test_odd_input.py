"""Null, missing keys and wrong types: the Python graders that ship give a reward, as they state."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import msgspec
import pytest

from graders import registry, schema
from graders.ports import Sandbox, SandboxRun
from graders.sample import Sample
from service.adapters import AdapterError, engine_options, sandbox_config
from service.cli.workshop import open_ports
from service.settings import Settings
from service.workshop.library import find_subjects

SETTINGS = Settings(sandbox_min_isolation="process", sandbox_timeout_s=60.0)
SUBJECTS = find_subjects([registry.BUNDLED], (), engine_options(SETTINGS))
LATEST = {subject.name: subject for subject in SUBJECTS}
ODD: list[Any] = [
    *(None, True, False, 0, -1, 1.5, 1e308, "", "x", "0", [], {}, [None], [[]], [{}], ["x"], [1]),
    *({"x": None}, [{"x": [None]}], [True, "x", None, {}]),
]
# Looks at the item only: what the rubric offers.
ITEM_ONLY = {"clinical-rubric-possible"}

# Runs a grader over many cases in one call; what is wrong fails it and shows the case.
WALK = """

import math as _math

_graded = grade


def grade(sample, item):
    for case in item["cases"]:
        try:
            reward = _graded(case["sample"], case["item"])
        except BaseException as error:
            raise RuntimeError(f"raises {error!r} for {case}") from error
        if type(reward) not in (int, float) or not _math.isfinite(reward) or reward < 0:
            raise RuntimeError(f"gives {reward!r} for {case}")
        if case["nothing"] and reward != 0:
            raise RuntimeError(f"gives {reward!r} for no answer: {case}")
    return len(item["cases"])
"""


def python_parts() -> Iterator[Any]:
    for subject in LATEST.values():
        assert subject.grader is not None
        grader = subject.grader.grader
        parts = grader.graders if isinstance(grader, schema.Multi) else {"": grader}
        for key, part in parts.items():
            if isinstance(part, schema.Python):
                identity = f"{subject.name}-{key}" if key else subject.name
                yield pytest.param(subject.name, part, id=identity)


PARTS = list(python_parts())


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    try:
        sandbox_config(SETTINGS)
    except AdapterError as error:
        pytest.skip(str(error))
    async with open_ports(SETTINGS, SUBJECTS) as ports:
        assert ports.sandbox is not None
        yield ports.sandbox


def odd_forms(value: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield ``value`` without each of its keys, and with a value of every odd type there."""
    for key in value:
        yield {other: value[other] for other in value if other != key}
        for odd in ODD:
            yield {**value, key: odd}


def cases(example: dict[str, Any], *, looks_at_answers: bool) -> list[dict[str, Any]]:
    """Return samples and items of odd form, beginning from an example that earns."""
    item = example["item"]
    given = example.get("sample")
    sample = (Sample.from_object(given) if given else Sample(example["model_sample"])).namespace
    nulls = dict.fromkeys(sample)
    nothing = [{}, nulls, {**nulls, "output_text": ""}]
    odd = [{**sample, "output_json": value, "output_text": json.dumps(value)} for value in ODD]
    odd += odd_forms(sample)
    if isinstance(sample["output_json"], dict):
        odd += [{**sample, "output_json": each} for each in odd_forms(sample["output_json"])]
    items = [{}, dict.fromkeys(item), *odd_forms(item)]
    return [
        *({"sample": each, "item": item, "nothing": looks_at_answers} for each in nothing),
        *({"sample": each, "item": item, "nothing": False} for each in odd),
        *({"sample": sample, "item": each, "nothing": False} for each in items),
    ]


@pytest.mark.parametrize(("name", "part"), PARTS)
async def test_no_odd_answer_or_item_raises(
    name: str, part: schema.Python, sandbox: Sandbox, request: pytest.FixtureRequest
) -> None:
    lines = (registry.BUNDLED / name / "examples.jsonl").read_text(encoding="utf-8").splitlines()
    example = next(each for each in map(json.loads, lines) if each["reward"] > 0)
    looks_at_answers = request.node.callspec.id not in ITEM_ONLY
    walk = cases(example, looks_at_answers=looks_at_answers)
    payload = msgspec.json.encode({"sample": {}, "item": {"cases": walk}})
    source, tag = part.source + WALK, part.image_tag or ""
    result = await sandbox.run(SandboxRun(source=source, image_tag=tag, payload=payload))
    assert (result.outcome, result.value) == ("value", len(walk)), result.details
    assert len(walk) > 60


@pytest.mark.parametrize("name", sorted({parameter.values[0] for parameter in PARTS}))
def test_the_readme_states_what_no_answer_and_an_odd_item_earn(name: str) -> None:
    readme = (registry.BUNDLED / name / "README.md").read_text(encoding="utf-8")
    assert "null" in readme
    assert any(word in readme for word in ("to every answer", "an item", "An item"))
