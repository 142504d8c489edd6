"""Every conformance vector against the engine itself; the format is described beside the data.

What only a route can do (a missing `model_sample`, the echo with a generated name) and what needs
the real sandbox is tested where those are.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from graders.engine import CompiledGrader, Purpose, compile_grader
from graders.errors import DefinitionError
from graders.grade import ErrorFlags, Grade, error_flags
from graders.ports import Ports
from graders.sample import Sample
from tests.fakes import FakeJudge, recorded
from tests.options import options

VECTORS = [
    json.loads(line)
    for line in Path(__file__).with_name("vectors.jsonl").read_text(encoding="utf-8").splitlines()
]
OPTIONS = options()

pytestmark = pytest.mark.conformance


def uses(grader: Any, kind: str) -> bool:
    if isinstance(grader, list):
        return any(uses(part, kind) for part in grader)
    if isinstance(grader, dict):
        return grader.get("type") == kind or any(uses(part, kind) for part in grader.values())
    return False


def reason_to_skip(vector: dict[str, Any]) -> str | None:
    refused = vector["expected"]["status"] == 400
    if vector["call"] == "evals" and refused:
        return "a rule of the Evals API, which is not served"
    if vector["call"] == "run" and "model_sample" not in vector:
        return "a rule of the route"
    if vector["call"] == "run" and uses(vector["grader"], "python") and not refused:
        return "needs the sandbox"
    if "meteor" in json.dumps(vector["grader"]) and OPTIONS.synonyms is None:
        return "WordNet is not installed: make wordnet"
    return None


def parameters() -> list[Any]:
    reasons = [(vector, reason_to_skip(vector)) for vector in VECTORS]
    return [
        pytest.param(
            vector, id=vector["id"], marks=[pytest.mark.skip(reason=reason)] if reason else []
        )
        for vector, reason in reasons
    ]


def purpose_of(vector: dict[str, Any]) -> Purpose:
    return "validate" if vector["call"] == "validate" else "run"


async def graded(grader: CompiledGrader, vector: dict[str, Any], judge: FakeJudge) -> Grade:
    item, sample = vector.get("item") or {}, Sample(vector["model_sample"])
    return await grader.grade(item, sample, Ports(judge=judge))


@pytest.mark.parametrize("vector", parameters())
async def test_vector(vector: dict[str, Any]) -> None:
    expected = vector["expected"]
    if expected["status"] == 400:
        with pytest.raises(DefinitionError):
            compile_grader(vector["grader"], OPTIONS, purpose=purpose_of(vector))
        return
    grader = compile_grader(vector["grader"], OPTIONS, purpose=purpose_of(vector))
    if vector["call"] == "validate":
        check_echo(grader, vector)
        return

    judge = FakeJudge(lambda _call: recorded(vector["judge_reply"]))
    grade = await graded(grader, vector, judge)
    assert grade.reward == pytest.approx(expected["reward"], abs=vector["tolerance"])
    check_flags(grade, expected["flag"])
    assert grade.sub_rewards == pytest.approx(expected.get("sub_rewards", grade.sub_rewards))
    if "judge_calls" in expected:
        assert judge.asked == expected["judge_calls"]
    if "passed" in expected:
        assert (grade.reward >= grader.threshold) is expected["passed"]


def check_flags(grade: Grade, expected: str | list[str] | None) -> None:
    flags = error_flags(grade.failures, ErrorFlags)
    raised = {name for name in flags.__struct_fields__ if getattr(flags, name) is True}
    assert raised == ({expected} if isinstance(expected, str) else set(expected or ()))
    assert grade.ok is (expected is None)


def check_echo(grader: CompiledGrader, vector: dict[str, Any]) -> None:
    expected = vector["expected"]
    if expected.get("echo"):
        assert grader.document == vector["grader"]
    for path, value in expected.get("fields", {}).items():
        found: Any = {"grader": grader.document}
        for step in path.split("."):
            found = found[step]
        assert found == value


def test_every_vector_is_there_once() -> None:
    assert len(VECTORS) == len({vector["id"] for vector in VECTORS}) == 113


def test_only_vectors_of_others_are_skipped() -> None:
    skipped = [vector["id"] for vector in VECTORS if reason_to_skip(vector)]
    assert len(skipped) <= 26
