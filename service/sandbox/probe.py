"""How strong the sandbox really is here: found out by attacking it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from service.sandbox.canaries import FILES, NETWORK, PROCESSES, STAT, Targets, canaries
from service.sandbox.config import LEVELS, IsolationReport, Level, SandboxConfig
from service.sandbox.environment import private_namespaces
from service.sandbox.guest.landlock import ABI_SCOPES
from service.sandbox.problems import IsolationTooWeakError

if TYPE_CHECKING:
    from graders.ports import SandboxResult
    from service.sandbox.environment import Environment
    from service.sandbox.supervisor import SubprocessSandbox

_OWN_NAMESPACES = ("pid", "net", "mnt")


async def find_level(sandbox: SubprocessSandbox, config: SandboxConfig) -> IsolationReport:
    """Return what the canaries find, over all images; the weakest decides."""
    selftest: dict[str, bool] = {}
    notes: list[str] = []
    levels: list[Level] = []
    for environment in sandbox.environments:
        stopped, unclear = await _attack(sandbox, environment, config)
        levels.append(_level(stopped, environment))
        notes += [*environment.notes, *unclear]
        selftest = {name: selftest.get(name, True) and held for name, held in stopped.items()}
    facts = sandbox.environments[0].facts
    private = private_namespaces(sandbox.environments[0].facts)
    return IsolationReport(
        level=max(levels, key=LEVELS.index),
        minimum_level=config.minimum_level,
        profile=config.profile,
        landlock_abi=facts["landlock_abi"],
        seccomp=facts["seccomp"],
        userns="user" in private,
        pidns="pid" in private,
        netns="net" in private,
        uid=facts["uid"],
        selftest=selftest,
        notes=tuple(dict.fromkeys(notes)),
        packages={
            environment.tag: tuple(environment.facts["packages"])
            for environment in sandbox.environments
        },
        python={
            environment.tag: environment.facts["python"] for environment in sandbox.environments
        },
    )


async def _attack(
    sandbox: SubprocessSandbox, environment: Environment, config: SandboxConfig
) -> tuple[dict[str, bool], list[str]]:
    """Return which canaries were stopped, and sentences about those that gave no answer."""
    stopped: dict[str, bool] = {}
    unclear: list[str] = []
    await environment.tier(0)  # what does not start at all is not to be reported attack by attack
    async with Targets(config.memory_bytes, config.scratch_dir) as targets:
        for name, template in canaries(config.profile).items():
            # Not str.format: the sources have braces of their own.
            source = template
            for key, value in targets.values.items():
                source = source.replace("{" + key + "!r}", repr(value)).replace(
                    "{" + key + "}", str(value)
                )
            result = await _answer(sandbox, environment, source, config.selftest_timeout_s)
            stopped[name] = result.outcome == "no_result" if name == "N09" else result.value == 1.0
            if name == "F05":
                stopped[name] = targets.files_unchanged()
            if not stopped[name] and result.outcome != "value":
                unclear.append(f"canary {name} gave no answer: {result.outcome}, {result.details}")
    return stopped, unclear


async def _answer(
    sandbox: SubprocessSandbox, environment: Environment, source: str, timeout_s: float
) -> SandboxResult:
    """Return what came of a canary; on a busy machine one may run out of time without a fault."""
    result = await sandbox.attack(environment, source, timeout_s)
    if result.outcome == "timeout":
        result = await sandbox.attack(environment, source, 2 * timeout_s)
    return result


def _level(stopped: dict[str, bool], environment: Environment) -> Level:
    def held(names: dict[str, str]) -> bool:
        return all(stopped.get(name, True) for name in names)

    if not (held(NETWORK) and held(PROCESSES) and stopped.get("N09", True)):
        return "process"
    if not held(FILES):
        return "seccomp"
    if held(STAT) and private_namespaces(environment.facts).issuperset(_OWN_NAMESPACES):
        return "namespaces"
    return "lsm"


def require_level(report: IsolationReport, minimum: Level) -> None:
    """Do nothing if ``report`` reaches ``minimum``, which need not be the one it was started with.

    Raises:
        IsolationTooWeakError: It does not.
    """
    if LEVELS.index(report.level) > LEVELS.index(minimum):
        missing = shortcomings(msgspec.structs.replace(report, minimum_level=minimum))
        raise IsolationTooWeakError(report.level, minimum, missing)


def shortcomings(report: IsolationReport) -> tuple[str, ...]:
    """Return why ``report`` is below its minimum, empty when it is not."""
    reasons = []
    if LEVELS.index(report.level) > LEVELS.index(report.minimum_level):
        through = [name for name, held in report.selftest.items() if not held]
        if report.minimum_level != "namespaces":
            through = [name for name in through if name not in STAT]
        if not report.landlock_abi:
            reasons.append("Landlock is not in use")
        if not report.seccomp:
            reasons.append("seccomp is not in use")
        if through:
            reasons.append(f"canary attacks that got through: {', '.join(through)}")
        reasons += report.notes
        reasons = reasons or [f"level {report.minimum_level} was not reached"]
    if report.profile == "processes" and report.landlock_abi < ABI_SCOPES:
        # A pid namespace is not enough: all graders of an image share it with their zygotes.
        reasons.append(f"profile processes needs Landlock ABI {ABI_SCOPES} (Linux 6.12)")
    return tuple(reasons)
