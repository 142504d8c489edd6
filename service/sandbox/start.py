"""Starting a sandbox: build it, attack it, and refuse it if it is weaker than asked for."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING

from graders.errors import UpstreamError
from service.sandbox.config import IsolationReport
from service.sandbox.fallback import ProcessSandbox
from service.sandbox.guest import syscalls
from service.sandbox.probe import find_level, shortcomings
from service.sandbox.problems import IsolationTooWeakError, ZygoteLostError, shortage_of
from service.sandbox.supervisor import SubprocessSandbox

if TYPE_CHECKING:
    from service.sandbox.config import SandboxConfig


async def start_sandbox(config: SandboxConfig) -> SubprocessSandbox | ProcessSandbox:
    """Return a sandbox that has withstood the canary attacks of at least ``config.minimum_level``.

    Raises:
        IsolationTooWeakError: Only less can be had here; names what is missing and how to get it.
        ZygoteLostError: A configured package set cannot be imported.
        OSError: The system lacks descriptors, memory or disk.
    """
    if sys.platform != "linux":
        return _fall_back(config, ("not Linux",))
    if config.protect_service:
        with contextlib.suppress(OSError):
            syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
    sandbox = SubprocessSandbox(config)
    try:
        await sandbox.start()
        report = await find_level(sandbox, config)
    except (UpstreamError, OSError) as error:
        await sandbox.close()
        shortage = shortage_of(error)
        if shortage is not None:  # says nothing about isolation
            raise shortage from error
        return _fall_back(config, (f"it does not start: {error}",))
    if report.level == "process":
        await sandbox.close()
        return _fall_back(config, shortcomings(report) or _canaries_through(report))
    missing = shortcomings(report)
    if missing:
        await sandbox.close()
        raise IsolationTooWeakError(report.level, report.minimum_level, missing)
    sandbox.describe(report)
    try:
        await sandbox.prewarm()
    except ZygoteLostError:
        await sandbox.close()
        raise
    return sandbox


def _canaries_through(report: IsolationReport) -> tuple[str, ...]:
    through = [name for name, held in report.selftest.items() if not held]
    return (f"canary attacks that got through: {', '.join(through)}",)


def _fall_back(config: SandboxConfig, why: tuple[str, ...]) -> ProcessSandbox:
    if config.minimum_level != "process" or config.profile == "processes":
        raise IsolationTooWeakError("process", config.minimum_level, why)
    return ProcessSandbox(config, why)
