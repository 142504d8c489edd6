"""The recorded python and multi runs, straight against the sandbox."""

import json
from pathlib import Path
from typing import Any

import pytest

from graders.ports import SandboxResult
from service.sandbox import SubprocessSandbox
from tests.sandbox import image
from tests.sandbox.conftest import call, config

pytestmark = [pytest.mark.conformance, pytest.mark.integration]

VECTORS = Path(__file__).parents[2].parent / "shared" / "conformance" / "vectors.jsonl"


def _python_runs() -> list[Any]:
    if not VECTORS.exists():
        return []
    rows = []
    for line in VECTORS.read_text(encoding="utf-8").splitlines():
        vector = json.loads(line)
        grader = vector.get("grader")
        if (
            vector["call"] == "run"
            and isinstance(grader, dict)
            and grader.get("type") == "python"
            and "skip" not in vector
        ):
            rows.append(pytest.param(vector, id=vector["id"]))
    return rows


@pytest.mark.skipif(not VECTORS.exists(), reason="the conformance data is not here")
@pytest.mark.parametrize("vector", _python_runs())
async def test_vector_gets_its_recorded_reward(vector: dict[str, Any]) -> None:
    text = vector["model_sample"]
    try:
        parsed = json.loads(text)
    except ValueError:
        parsed = None
    sample = {"output_text": text, "output_json": parsed}
    sandbox = SubprocessSandbox(config())
    await sandbox.start()
    try:
        result = await sandbox.run(call(vector["grader"]["source"], sample, vector.get("item")))
    finally:
        await sandbox.close()
    assert _reward(result) == pytest.approx(vector["expected"]["reward"], abs=vector["tolerance"])
    assert (result.outcome == "value" and result.value == result.value) == (
        vector["expected"]["flag"] is None
    )
    assert vector["grader"]["image_tag"] == image.TAG


def _reward(result: SandboxResult) -> float:
    return result.value if result.value is not None and result.value == result.value else 0.0
