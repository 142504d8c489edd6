"""Why a sandbox did not start or lost a process."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from graders.errors import SandboxUnavailableError

if TYPE_CHECKING:
    from service.sandbox.config import Level

_ADVICE = {
    "namespaces": (
        "allow unprivileged user namespaces (sysctl user.max_user_namespaces,"
        " kernel.apparmor_restrict_unprivileged_userns)"
        " and a seccomp profile that lets unshare and mount through"
    ),
    "lsm": (
        "run on Linux 6.2 or newer with Landlock enabled (CONFIG_SECURITY_LANDLOCK, and landlock"
        " in the lsm= list),"
        " under a container runtime whose seccomp profile allows it (Docker 20.10.10 or newer does)"
    ),
    "seccomp": "run on x86-64 or aarch64 Linux with CONFIG_SECCOMP_FILTER",
    "process": "install the grader image's interpreter",
}


class IsolationTooWeakError(SandboxUnavailableError):
    """The level that the self-test found is below the configured minimum.

    Attributes:
        level: What was found.
        minimum: What was asked for.
        missing: Canaries that got through, or sentences on layers that did not start.
    """

    def __init__(self, level: Level, minimum: Level, missing: tuple[str, ...]) -> None:
        """Name the missing layer and how to get it."""
        self.level = level
        self.minimum = minimum
        self.missing = missing
        super().__init__(
            f"Python graders can only be isolated at level {level!r} here,"
            f" and {minimum!r} is the configured minimum"
            f" ({'; '.join(missing) or 'no layer works'}). To get {minimum!r}: {_ADVICE[minimum]};"
            f" or accept less with GRADEKEEPER_SANDBOX_MIN_ISOLATION={level}",
            retryable=False,
            kind="isolation_too_weak",
        )


# What the system may have again in a moment.
_SHORTAGES = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC, errno.EDQUOT, errno.EAGAIN}
)


def shortage_of(error: BaseException | None) -> OSError | None:
    """Return the lack of descriptors, memory or disk that ``error`` comes from, if it does."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _SHORTAGES:
            return error
        error = error.__cause__
    return None


class ShortageError(SandboxUnavailableError):
    """The system does not give what a sandbox needs to start: descriptors, memory or disk."""

    def __init__(self, error: OSError) -> None:
        """Say what ``error`` is about."""
        message = f"the system is short of what the sandbox needs: {error.strerror or error}"
        super().__init__(message, retry_after_s=1.0, kind="shortage")


class ZygoteLostError(SandboxUnavailableError):
    """A zygote died or refused; nothing is known to be wrong with the grader."""

    def __init__(self, details: str) -> None:
        """Keep what the zygote said."""
        super().__init__(details, retry_after_s=1.0, kind="zygote_lost")
