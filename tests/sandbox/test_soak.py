"""A short form of ``python -m tests.bench --suite soak``."""

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from service.sandbox import SubprocessSandbox
from tests.bench.soak import growth, soak, state

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

CALLS = 1500


@pytest.mark.parametrize(
    "disabled", [(), ("namespaces",)], ids=["best-level", "without-namespaces"]
)
async def test_nothing_is_left_of_many_mixed_calls(
    started: Callable[..., Awaitable[SubprocessSandbox]],
    tmp_path: Path,
    disabled: tuple[str, ...],
) -> None:
    sandbox = await started(disabled_layers=frozenset(disabled), scratch_dir=str(tmp_path))
    before, after = await soak(sandbox, CALLS, lambda: state(str(tmp_path), sandbox))
    assert after.processes == before.processes
    assert after.descriptors == before.descriptors
    assert after.files == before.files
    assert growth(before, after) <= 0.05
    assert sandbox.stats().zygote_restarts == 0
    assert sandbox.stats().kills["timeout"] >= CALLS // 50
