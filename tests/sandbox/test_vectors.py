"""The recorded runs of Python graders, alone and inside multi, through engine and real sandbox."""

import json
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

import pytest
import pytest_asyncio

from graders.engine import compile_grader
from graders.errors import DefinitionError
from graders.ports import EndpointReply, Ports
from graders.sample import Sample
from service.sandbox import ProcessSandbox, SubprocessSandbox, start_sandbox
from tests.conformance import test_cases as cases
from tests.conformance import test_vectors as vectors
from tests.fakes import FakeEndpoint, FakeJudge, recorded, verdict
from tests.sandbox import image
from tests.sandbox.conftest import config

Reply = TypeVar("Reply")

pytestmark = [
    pytest.mark.conformance,
    pytest.mark.integration,
    pytest.mark.asyncio(loop_scope="module"),
]

VECTORS = [v for v in vectors.VECTORS if vectors.reason_to_skip(v) == "needs the sandbox"]
CASES = [
    pytest.param(case, run, id=f"{case['id']}-{number}")
    for case in cases.LOADED
    if vectors.uses(case["grader"], "python")
    for number, run in enumerate(case["runs"])
]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def sandbox() -> AsyncIterator[SubprocessSandbox | ProcessSandbox]:
    running = await start_sandbox(config())
    yield running
    await running.close()


@pytest.mark.parametrize("vector", VECTORS, ids=[vector["id"] for vector in VECTORS])
async def test_vector_gets_its_recorded_reward(
    vector: dict[str, Any], sandbox: SubprocessSandbox
) -> None:
    _need_packages(vector["grader"])
    expected = vector["expected"]
    grader = compile_grader(vector["grader"], vectors.OPTIONS, purpose="run")
    judge = FakeJudge(lambda _call: recorded(vector["judge_reply"]))
    available = None if "sandbox is not available" in vector.get("skip", "") else sandbox
    grade = await grader.grade(
        vector.get("item") or {},
        Sample(vector["model_sample"]),
        Ports(judge=judge, sandbox=available),
    )
    assert grade.reward == pytest.approx(expected["reward"], abs=vector["tolerance"])
    vectors.check_flags(grade, expected["flag"])
    assert grade.sub_rewards == pytest.approx(expected.get("sub_rewards", grade.sub_rewards))


@pytest.mark.skipif(not CASES, reason=cases.MISSING)
@pytest.mark.parametrize(("case", "run"), CASES)
async def test_case_gets_its_recorded_reward(
    case: dict[str, Any], run: dict[str, Any], sandbox: SubprocessSandbox
) -> None:
    _need_packages(case["grader"])
    if cases.REFUSED.get(case["id"]) == "validate":
        with pytest.raises(DefinitionError):
            compile_grader(case["grader"], cases.OPTIONS, purpose="validate")
    grader = cases.compiled(case)
    wanted = {float(value): reward for value, reward in run.get("reward_if_judge", {}).items()}
    for value, reward in (wanted or {0.0: run["expected"]}).items():
        ports = Ports(
            judge=FakeJudge(_always(verdict(value))),
            endpoint=FakeEndpoint(_always(EndpointReply(body=b'{"score": %.1f}' % value))),
            sandbox=sandbox,
        )
        grade = await grader.grade(run["item"], cases.sample_of(run), ports)
        if run["status"] == "error":
            assert not grade.ok
            assert grade.reward == 0.0
        else:
            assert grade.failures == ()
            assert grade.reward == pytest.approx(reward, abs=1e-6)


def _always(reply: Reply) -> Callable[[object], Reply]:
    return lambda _call: reply


def _need_packages(grader: dict[str, Any]) -> None:
    if not image.is_full() and "import" in json.dumps(grader):
        pytest.skip("may need the full image")


async def test_vectors_are_there() -> None:
    assert len(VECTORS) >= 15
