"""The system runs short of descriptors or disk: typed, retryable, and never at isolation's cost."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import signal
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from graders.errors import SandboxUnavailableError
from service.sandbox import ProcessSandbox, SubprocessSandbox, scratch, start_sandbox
from service.sandbox.guest.zygote import STARTED
from tests.sandbox.conftest import call, config, until

pytestmark = pytest.mark.integration

Start = Callable[..., Awaitable[SubprocessSandbox]]

HALF = "def grade(sample, item):\n    return 0.5\n"
FOREVER = "def grade(sample, item):\n    while True:\n        pass\n"
LEAVING = "def grade(sample, item):\n    open('left', 'w').write('secret')\n    return 0.5\n"
LOOKING = "import os\ndef grade(sample, item):\n    return float(len(os.listdir('.')))\n"


_SOFT, _HARD = resource.getrlimit(resource.RLIMIT_NOFILE)


def leave_descriptors(number: int) -> None:
    """Leave this process so many free descriptors."""
    taken = {int(name) for name in os.listdir("/proc/self/fd")}
    free = (fd for fd in range(_SOFT) if fd not in taken)
    for _ in range(number):
        next(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (next(free), _HARD))


def give_back() -> None:
    """Undo `leave_descriptors`."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (_SOFT, _HARD))


@pytest.fixture(autouse=True)
def _all_descriptors() -> Iterator[None]:
    yield
    give_back()


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("free", range(6))
async def test_without_descriptors_calls_are_retryable_and_leak_none(
    started: Start, free: int
) -> None:
    sandbox = await started(slots=1)
    assert (await sandbox.run(call(HALF))).value == 0.5
    await until(lambda: not sandbox.stats().running)
    before = descriptors()
    leave_descriptors(free)
    failed = 0
    for number in range(3):
        try:
            result = await sandbox.run(call(f"{HALF}# {number}"))
            assert result.value == 0.5
        except SandboxUnavailableError as error:
            assert error.retryable  # noqa: PT017 - either way is right, with so many free
            failed += 1
    assert failed == 3 or free > 0
    give_back()
    assert (await sandbox.run(call(HALF))).value == 0.5
    await until(lambda: not sandbox.stats().running)
    await until(lambda: descriptors() <= before + 3)  # a compiled source each


async def test_a_process_whose_descriptor_was_lost_does_not_stay(started: Start) -> None:
    sandbox = await started(slots=1, timeout_s=30.0)
    assert (await sandbox.run(call(HALF))).value == 0.5
    (tier,) = sandbox.environments[0].tiers
    task = asyncio.create_task(sandbox.run(call(FOREVER)))
    await until(lambda: bool(tier.calls))
    call_id = max(tier.calls)  # beside one that is being reaped
    tier.on_message(STARTED, call_id, (0, 0, 0), b"", [])  # as when SCM_RIGHTS is cut off
    assert tier.closed
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert (await sandbox.run(call(HALF))).value == 0.5


async def test_what_a_grader_left_is_wiped_even_if_nobody_could_look(
    started: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox = await started(slots=1, slow_slots=0)

    def blind(_: int) -> bool:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(scratch, "is_empty", blind)
        assert (await sandbox.run(call(LEAVING))).value == 0.5
        await until(lambda: not sandbox.stats().running)
    assert (await sandbox.run(call(LOOKING))).value == 0.0


async def test_zygotes_that_cannot_be_replaced_now_are_later_as_isolated_as_before(
    started: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox = await started(slots=1)
    (environment,) = sandbox.environments
    isolated = environment.in_namespaces
    assert (await sandbox.run(call(HALF))).value == 0.5
    for shortage in (
        OSError(errno.ENOSPC, "No space left on device"),
        FileNotFoundError(errno.ENOENT, "gone for a moment"),
    ):
        base = environment._process
        assert base is not None
        with monkeypatch.context() as patch:

            def fail(*_: Any, error: OSError = shortage, **__: Any) -> Any:
                raise error

            patch.setattr(tempfile, "mkdtemp", fail)
            os.kill(base.pid, signal.SIGKILL)
            await until(lambda: not environment.tiers)
            with pytest.raises(SandboxUnavailableError) as caught:
                await sandbox.run(call(HALF))
            assert caught.value.retryable
        assert (await sandbox.run(call(HALF))).value == 0.5
        assert environment.in_namespaces == isolated
        assert environment.notes == []


async def test_a_start_in_a_shortage_is_no_verdict_on_isolation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "mkdtemp", full)
    with pytest.raises(OSError, match="No space left"):
        await start_sandbox(config())


async def test_without_isolation_a_full_disk_is_retryable_too(tmp_path: Path) -> None:
    chosen = config(minimum_level="process", scratch_dir=str(tmp_path / "none"))
    with pytest.raises(SandboxUnavailableError) as caught:
        await ProcessSandbox(chosen, ()).run(call(HALF))
    assert caught.value.retryable
