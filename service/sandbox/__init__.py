"""Python graders, run by anybody, harming nobody: the `graders.ports.Sandbox` of the service.

`start_sandbox` starts one, attacks it and says how strong it is; docs/sandbox.md is for those who
run it. `supervisor` has slots, deadlines and results, `environment` one grader image, `guest` what
runs in the grader interpreter, `probe` the self-test, `fallback` what is left without isolation,
and `build_image` makes the interpreter.
"""

from service.sandbox.config import (
    IsolationReport,
    Layer,
    Level,
    Profile,
    RemoteConfig,
    RunTerms,
    SandboxConfig,
    SandboxStats,
    TierStats,
)
from service.sandbox.fallback import ProcessSandbox
from service.sandbox.problems import IsolationTooWeakError, ShortageError, ZygoteLostError
from service.sandbox.remote import RemoteSandbox
from service.sandbox.start import start_sandbox
from service.sandbox.supervisor import SubprocessSandbox

__all__ = [
    "IsolationReport",
    "IsolationTooWeakError",
    "Layer",
    "Level",
    "ProcessSandbox",
    "Profile",
    "RemoteConfig",
    "RemoteSandbox",
    "RunTerms",
    "SandboxConfig",
    "SandboxStats",
    "ShortageError",
    "SubprocessSandbox",
    "TierStats",
    "ZygoteLostError",
    "start_sandbox",
]
