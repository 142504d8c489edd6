"""Graders as people write them give the reward they give outside."""

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
def results(request: pytest.FixtureRequest) -> dict[str, SandboxResult]:
    import asyncio

    return asyncio.run(_run_all(frozenset(request.param)))


@pytest.mark.parametrize("program", PROGRAMS, ids=[program.id for program in PROGRAMS])
def test_program_gets_its_reward(program: Program, results: dict[str, SandboxResult]) -> None:
    if program.full and not image.is_full():
        pytest.skip("needs the full image")
    result = results[program.id]
    assert result.outcome == "value", result.details
    assert result.value == pytest.approx(program.reward, abs=1e-9)
