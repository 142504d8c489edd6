"""Graders as people write them give the reward they give outside."""

import asyncio
import fcntl
from pathlib import Path

import msgspec
import pytest

from graders.ports import SandboxResult
from service.sandbox import ProcessSandbox, start_sandbox
from tests.sandbox import image
from tests.sandbox.conftest import call, config
from tests.sandbox.programs import ITEM, PROGRAMS, SAMPLE, Program

pytestmark = pytest.mark.integration


async def _run_all(disabled: frozenset[str]) -> dict[str, SandboxResult]:
    results = {}
    sandbox = await start_sandbox(config(disabled_layers=disabled))
    assert not isinstance(sandbox, ProcessSandbox)
    try:
        for program in PROGRAMS:
            if image.is_full() or not program.full:
                results[program.id] = await sandbox.run(call(program.source, SAMPLE, ITEM))
    finally:
        await sandbox.close()
    return results


@pytest.fixture(
    scope="module", params=[(), ("namespaces",)], ids=["best-level", "without-namespaces"]
)
def results(request: pytest.FixtureRequest, shared: Path) -> dict[str, SandboxResult]:
    """Every program, run once by whichever test process comes first."""
    target = shared / f"programs-{'-'.join(request.param) or 'all'}.json"
    with target.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            found = asyncio.run(_run_all(frozenset(request.param)))
            target.write_bytes(msgspec.json.encode(found))
    return msgspec.json.decode(target.read_bytes(), type=dict[str, SandboxResult])


@pytest.mark.parametrize("program", PROGRAMS, ids=[program.id for program in PROGRAMS])
def test_program_gets_its_reward(program: Program, results: dict[str, SandboxResult]) -> None:
    if program.full and not image.is_full():
        pytest.skip("needs the full image")
    result = results[program.id]
    assert result.outcome == "value", result.details
    assert result.value == pytest.approx(program.reward, abs=1e-9)
