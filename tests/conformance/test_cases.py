"""Real grader definitions with recorded or computed rewards, where that material is at hand.

It is third-party test input that stays outside the project; without it these tests skip.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from graders import schema
from graders.engine import CompiledGrader, Purpose, compile_grader
from graders.errors import DefinitionError
from graders.ports import EndpointReply, JudgeCall, JudgeReply, Ports
from graders.sample import Sample
from tests.fakes import FakeEndpoint, FakeJudge, verdict
from tests.options import options

CASES = Path(__file__).parents[2].parent / "shared" / "conformance" / "cases"
OPTIONS = options()
MISSING = "the conformance cases are not at hand"

# 085 cannot work as published (list without identifiers, broken formula); 093 does not compile,
# which a run finds out in the sandbox.
REFUSED = {"085": "run", "093": "validate"}

pytestmark = pytest.mark.conformance


def load() -> list[dict[str, Any]]:
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(CASES.glob("*.json"))]


LOADED = load()


def parameters(status: str) -> list[Any]:
    found = [
        pytest.param(case, run, id=f"{case['id']}-{number}")
        for case in LOADED
        for number, run in enumerate(case["runs"])
        if run["status"] == status
    ]
    return found or [pytest.param(None, None, marks=pytest.mark.skip(reason=MISSING))]


def sample_of(run: dict[str, Any]) -> Sample:
    return Sample.from_object(run["sample"]) if "sample" in run else Sample(run["model_sample"])


def compiled(case: dict[str, Any]) -> CompiledGrader:
    if "meteor" in json.dumps(case["grader"]) and OPTIONS.synonyms is None:
        pytest.skip("WordNet is not installed: make wordnet")
    return compile_grader(case["grader"], OPTIONS, purpose="run")


def parts_of(grader: schema.Grader) -> list[schema.SingleGrader]:
    return list(grader.graders.values()) if isinstance(grader, schema.Multi) else [grader]


@pytest.mark.skipif(not LOADED, reason=MISSING)
def test_every_definition_is_accepted_except_those_that_cannot_work() -> None:
    purposes: tuple[Purpose, ...] = ("validate", "run")
    refused: dict[str, str] = {}
    for case in LOADED:
        for purpose in purposes:
            try:
                compile_grader(case["grader"], OPTIONS, purpose=purpose)
            except DefinitionError:
                refused[case["id"]] = purpose
    assert refused == REFUSED


@pytest.mark.parametrize(("case", "run"), parameters("reward"))
def test_reward_is_the_recorded_one(case: dict[str, Any], run: dict[str, Any]) -> None:
    grader = compiled(case)
    if not grader.is_pure:
        pytest.skip("needs the sandbox")
    grade = grader.grade_now(run["item"], sample_of(run))
    assert grade.failures == ()
    assert grade.reward == pytest.approx(run["expected"], abs=1e-9)
    assert grade.sub_rewards == pytest.approx(run.get("expected_sub", grade.sub_rewards))


@pytest.mark.parametrize(("case", "run"), parameters("error"))
def test_ungradable_sample_is_a_flag_and_never_a_plain_zero(
    case: dict[str, Any], run: dict[str, Any]
) -> None:
    if REFUSED.get(case["id"]) == "run":
        assert run["expected"] is None
        return
    grader = compiled(case)
    if not grader.is_pure:
        pytest.skip("needs the sandbox")
    grade = grader.grade_now(run["item"], sample_of(run))
    assert grade.reward == 0.0
    assert not grade.ok


@pytest.mark.parametrize(("case", "run"), parameters("needs"))
async def test_scripted_judge_gives_the_published_score(
    case: dict[str, Any], run: dict[str, Any]
) -> None:
    grader = compiled(case)
    parts = parts_of(grader.grader)
    if any(isinstance(part, schema.Python) for part in parts):
        pytest.skip("needs the sandbox")
    if isinstance(grader.grader, schema.Multi):
        wanted = {float(value): reward for value, reward in run["reward_if_judge"].items()}
    elif run["expected"] is None:
        wanted = {1.0: None}
    else:
        wanted = {float(run["expected"]): float(run["expected"])}
    for value, reward in wanted.items():
        await check(grader, run, value, reward)


async def check(
    grader: CompiledGrader, run: dict[str, Any], value: float, reward: float | None
) -> None:
    def answer(call: JudgeCall) -> JudgeReply:
        if call.schema_name != "label_classification":
            return verdict(value)
        return verdict(case_label(grader))

    judge = FakeJudge(answer)
    score = EndpointReply(body=json.dumps({"score": value}).encode())
    endpoint = FakeEndpoint(lambda _call: score)
    grade = await grader.grade(run["item"], sample_of(run), Ports(judge=judge, endpoint=endpoint))
    if "output_audio" in json.dumps(grader.document) and "sample" not in run:
        assert [failure.code for failure in grade.failures] == ["invalid_variable"]
        assert judge.asked == 0
        return
    assert grade.failures == ()
    assert judge.asked + endpoint.asked == 1
    assert "{{" not in json.dumps([call.messages for call in judge.calls])
    if reward is not None:
        low, high = clamp_of(grader.grader)
        assert grade.reward == pytest.approx(min(max(reward, low), high), abs=1e-9)


def case_label(grader: CompiledGrader) -> str:
    assert isinstance(grader.grader, schema.LabelModel)
    return grader.grader.passing_labels[0]


def clamp_of(grader: schema.Grader) -> tuple[float, float]:
    return grader.range if isinstance(grader, schema.ScoreModel) else (-1e9, 1e9)
