"""A runner's answers are those of a sandbox in this process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from graders.building import Options
from graders.engine import compile_grader
from graders.errors import DefinitionError, GraderError
from graders.ports import Ports, SandboxRun
from graders.sample import Sample
from service.sandbox import SubprocessSandbox
from tests.runner.world import HALF, asking, question, running
from tests.sandbox import image
from tests.sandbox.conftest import Start

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

TIMEOUT_S = 2.0
RANDOM = "import random\ndef grade(sample, item):\n    return random.random()\n"
PROGRAMS = {
    "number": HALF,
    "exact double": "def grade(sample, item):\n    return 0.1 + 0.2\n",
    "not a number": "def grade(sample, item):\n    return float('nan')\n",
    "infinite": "def grade(sample, item):\n    return float('-inf')\n",
    "sample and item": (
        "def grade(sample, item):\n    return len(sample['output_text']) + item['n']\n"
    ),
    "text": "def grade(sample, item):\n    return 'x'\n",
    "exception": "def grade(sample, item):\n    return item['missing']\n",
    "output": (
        "import sys\ndef grade(sample, item):\n    print('ö\\0')\n"
        "    sys.stdout.buffer.write(bytes([255]))\n"
        "    print('seen', file=sys.stderr)\n    return 1\n"
    ),
    "flood": "def grade(sample, item):\n    print('é' * 10**6)\n    return 1\n",
    "no grade": "x = 1\n",
    "syntax": "def grade(:\n",
    "exit": "import os\ndef grade(sample, item):\n    os._exit(3)\n",
    "memory": "def grade(sample, item):\n    return len(b'x' * 10**12)\n",
    "endless": "def grade(sample, item):\n    while True:\n        pass\n",
    "no package": "import nosuchpackage\n" + HALF,
}


@pytest.fixture
async def local(started: Start) -> SubprocessSandbox:
    return await started(timeout_s=TIMEOUT_S, memory_bytes=2 << 30)


async def test_every_outcome_and_every_grade_is_the_same(
    local: SubprocessSandbox, tmp_path: Path
) -> None:
    async with running(tmp_path) as live, asking(live.url, timeout_s=TIMEOUT_S) as remote:
        for name, source in PROGRAMS.items():
            run = question(source, {"output_text": "four"}, {"n": 2})
            here, there = await local.run(run), await remote.run(run)
            assert _timeless(there) == _timeless(here), name
            assert (await _graded(source, remote)) == (await _graded(source, local)), name


def _timeless(result: Any) -> bytes:
    """Everything but the time it took, in bytes, as NaN equals nothing."""
    return msgspec.msgpack.encode(msgspec.structs.replace(result, execution_time_s=0.0))


async def _graded(source: str, sandbox: Any) -> tuple[Any, ...]:
    document = {"type": "python", "name": "g", "source": source, "image_tag": image.TAG}
    grader = compile_grader(document, Options(image_tags=(image.TAG,)), purpose="run")
    grade = await grader.grade({"n": 2}, Sample("four"), Ports(sandbox=sandbox))
    diagnostics = {**grade.diagnostics[""], "execution_time": None}
    return grade.reward, grade.ok, grade.failures, grade.judgements, diagnostics


@pytest.mark.parametrize(
    "run",
    [
        SandboxRun(source=HALF, image_tag="2020-01-01", payload=b"{}"),
        question("#" * (256 * 1024 + 1)),
        question("'\ud800'"),
    ],
    ids=["unknown image", "long source", "lone surrogate"],
)
async def test_what_is_no_definition_is_refused_alike(
    local: SubprocessSandbox, tmp_path: Path, run: SandboxRun
) -> None:
    found = []
    async with running(tmp_path) as live, asking(live.url) as remote:
        for sandbox in (local, remote):
            with pytest.raises(DefinitionError) as caught:
                await sandbox.run(run)
            found.append(caught.value.findings)
    assert found[0] == found[1]


@pytest.mark.parametrize("who", ["service", "runner"])
async def test_fixed_seeds_are_those_of_a_local_sandbox(
    started: Start, tmp_path: Path, who: str
) -> None:
    local = await started(seeds="fixed")
    expected = (await local.run(question(RANDOM))).value
    at_runner: dict[str, Any] = {"sandbox_seeds": "fixed"} if who == "runner" else {}
    at_service: dict[str, Any] = {"seeds": "fixed"} if who == "service" else {}
    async with running(tmp_path, **at_runner) as live, asking(live.url, **at_service) as remote:
        assert (await remote.run(question(RANDOM))).value == expected
        assert (await remote.run(question(RANDOM))).value == expected
    async with running(tmp_path) as live, asking(live.url) as remote:
        assert (await remote.run(question(RANDOM))).value != expected


@pytest.mark.parametrize(("service_s", "runner_s"), [(0.3, 20.0), (20.0, 0.3)])
async def test_the_shorter_time_limit_counts(
    tmp_path: Path, service_s: float, runner_s: float
) -> None:
    async with (
        running(tmp_path, sandbox_timeout_s=runner_s) as live,
        asking(live.url, timeout_s=service_s) as remote,
    ):
        result = await remote.run(question(PROGRAMS["endless"]))
    assert (result.outcome, result.details) == ("timeout", "timed out after 0.3 s")


async def test_the_isolation_is_that_of_the_runner(tmp_path: Path) -> None:
    async with running(tmp_path) as live, asking(live.url) as remote:
        states = [remote.state]
        found = await remote.check()
        states.append(remote.state)
        report = live.sandbox.report()
        result = await remote.run(question())
    assert remote.report == report
    assert states == ["starting", "running"]
    assert found == {
        "ok": True,
        "runner": live.url,
        "state": "running",
        "isolation": msgspec.to_builtins(report),
    }
    assert result.diagnostics["isolation"] == report.level


async def test_a_runner_weaker_than_the_service_allows_runs_nothing(tmp_path: Path) -> None:
    async with running(tmp_path) as live, asking(live.url, minimum_level="lsm") as remote:
        report = live.sandbox.report()
        live.sandbox.describe(msgspec.structs.replace(report, level="seccomp"))
        with pytest.raises(GraderError, match="'lsm' is the configured minimum") as caught:
            await remote.run(question())
        found = await remote.check()
        with pytest.raises(GraderError, match="'lsm' is the configured minimum"):
            await remote.started()
        assert live.sandbox.stats().calls == {}
    assert (caught.value.kind, caught.value.retryable) == ("isolation_too_weak", False)  # type: ignore[attr-defined]
    assert (found["ok"], found["state"]) == (True, "refused")
    assert remote.state == "refused"
