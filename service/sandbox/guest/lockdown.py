"""The steps by which a forked leaf gives up all it does not need, in order, all or nothing.

User code runs only after `Lockdown.enter` has returned; any step that fails raises
`LockdownError`, and the
leaf reports the step to the supervisor over the zygote's own socket, which user code never sees.
"""

from __future__ import annotations

import fcntl
import os
import resource
import signal
import sys

from service.sandbox.guest import bpf, syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from service.sandbox.guest.landlock import Ruleset

_STACK_BYTES = 8 << 20
# 0-2 are on /dev/null, 3 is the result pipe; the zygote's socket waits here until nothing can fail
# any more.
CONTROL_FD = 4
_FAMILY_MARGIN = 16
_FAMILY_NICE = 10
_LIFT_TO = 32
_HIGHEST_FD = (1 << 31) - 1  # close_range: one call, however high


_LIMITS = (
    resource.RLIMIT_AS,
    resource.RLIMIT_FSIZE,
    resource.RLIMIT_NOFILE,
    resource.RLIMIT_CPU,
    resource.RLIMIT_CORE,
    resource.RLIMIT_MEMLOCK,
    resource.RLIMIT_MSGQUEUE,
    resource.RLIMIT_STACK,
    resource.RLIMIT_NPROC,
)


class LockdownError(Exception):
    """A layer could not be put in place."""


class Limits:
    """Resource limits of one leaf.

    Attributes:
        memory_bytes: Address space beyond what the zygote already has.
        file_bytes: Largest file.
        open_files: Open descriptors.
        cores: CPUs a leaf may use.
        max_processes: Processes of a leaf's family, which the zygote watches.
        cpus: CPUs this process may use.
    """

    def __init__(
        self, memory_bytes: int, file_bytes: int, open_files: int, cores: int, max_processes: int
    ) -> None:
        """Keep the limits; ``max_processes`` is 0 where there are no children."""
        self.memory_bytes = memory_bytes
        self.file_bytes = file_bytes
        self.open_files = open_files
        self.cores = cores
        self.max_processes = max_processes
        self._uid_processes = 0
        self._ceilings = {which: _ceiling(which) for which in _LIMITS}
        self.cpus = sorted(os.sched_getaffinity(0))

    def measure(self) -> None:
        """Count the tasks of our uid, which the kernel's process limit is about."""
        if self.max_processes:
            self._uid_processes = _tasks_of_uid()

    def apply(self, cpu_s: int, slot: int, base_bytes: int) -> None:
        """Set hard limits on this process; ``base_bytes`` is the zygote's own address space."""
        wanted = {
            resource.RLIMIT_AS: base_bytes + self.memory_bytes,
            resource.RLIMIT_FSIZE: self.file_bytes,
            resource.RLIMIT_NOFILE: self.open_files,
            resource.RLIMIT_CPU: cpu_s,
            resource.RLIMIT_CORE: 0,
            resource.RLIMIT_MEMLOCK: 0,
            resource.RLIMIT_MSGQUEUE: 0,
            resource.RLIMIT_STACK: _STACK_BYTES,
        }
        if self.max_processes:
            # The kernel counts a uid's tasks on the whole node: only a wall behind the zygote's
            # count.
            wanted[resource.RLIMIT_NPROC] = (
                self._uid_processes + _FAMILY_MARGIN * self.max_processes
            )
            os.nice(_FAMILY_NICE)  # many of them must not starve the one that stops them
        for which, value in wanted.items():
            limit = min(value, self._ceilings[which])
            resource.setrlimit(which, (limit, limit))
        if self.cores < len(self.cpus):
            first = slot * self.cores
            os.sched_setaffinity(
                0, {self.cpus[(first + i) % len(self.cpus)] for i in range(self.cores)}
            )


def address_space_bytes() -> int:
    """Return the size of this process's address space, 0 when the kernel does not tell."""
    try:
        with open("/proc/self/statm", encoding="ascii") as statm:
            return int(statm.read().split()[0]) * resource.getpagesize()
    except OSError:
        return 0


def _ceiling(which: int) -> int:
    hard = resource.getrlimit(which)[1]
    return sys.maxsize if hard == resource.RLIM_INFINITY else hard


def _tasks_of_uid() -> int:
    total = 0
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        path = f"/proc/{name}"
        try:
            if os.stat(path).st_uid in (0, os.getuid()):  # an undumpable process shows as root's
                total += len(os.listdir(f"{path}/task"))
        except OSError:
            continue
    return total


class Lockdown:
    """Everything prepared in the zygote that a leaf needs to lock itself.

    Attributes:
        scratch: Path pattern of the per-slot scratch, with ``{slot}``.
    """

    def __init__(
        self,
        *,
        limits: Limits,
        scratch: str,
        ruleset: Ruleset | None,
        programs: tuple[bytes, bytes] | None,
    ) -> None:
        """Prepare; None leaves a layer out (which the self-test then finds and reports)."""
        self.scratch = scratch
        self._limits = limits
        self._ruleset = ruleset
        self._filters = tuple(map(syscalls.FilterProgram, programs)) if programs else ()
        self._pid_slots = bpf.own_pid_slots(programs[1]) if programs else ()
        self._null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        self._base_bytes = 0

    def filter_zygote(self) -> None:
        """Put the long filter on this process and all that it forks.

        Raises:
            OSError: The kernel refused.
        """
        if self._filters:
            self._filters[0].install()

    def measure(self) -> None:
        """Take the zygote's present address space as what is not counted against a leaf."""
        self._base_bytes = address_space_bytes()
        self._limits.measure()

    def enter(self, *, parent: int, slot: int, cpu_s: int, result_fd: int, control_fd: int) -> str:
        """Lock this process and return its scratch directory.

        Args:
            parent: Pid of the zygote, as this process sees it.
            slot: Which scratch is ours.
            cpu_s: CPU seconds, the second line behind the supervisor's deadline.
            result_fd: Becomes descriptor 3.
            control_fd: Closed last, once nothing can fail any more.

        Raises:
            LockdownError: A step failed; user code must not run.
        """
        scratch = self.scratch.format(slot=slot)
        steps: tuple[tuple[str, Callable[[], object]], ...] = (
            ("group", lambda: self._own_group(parent)),
            ("scratch", lambda: os.chdir(scratch)),
            ("landlock", lambda: self._ruleset.enforce(scratch) if self._ruleset else None),
            ("descriptors", lambda: self._close_all(result_fd, control_fd)),
            # After the zygote's many descriptors are gone: they would not fit the limit.
            ("rlimits", lambda: self._limits.apply(cpu_s, slot, self._base_bytes)),
            ("seccomp", self._install_filter),
        )
        for name, step in steps:
            try:
                step()
            except (OSError, ValueError) as error:
                msg = f"{name}: {error}"
                raise LockdownError(msg) from error
        os.close(CONTROL_FD)
        return scratch

    def _own_group(self, parent: int) -> None:
        # Not a session: each would get its own share of the CPUs, and niceness would mean nothing.
        os.setpgid(0, 0)
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            msg = "the zygote is gone"
            raise OSError(msg)
        os.umask(0o077)

    def _close_all(self, result_fd: int, control_fd: int) -> None:
        # The two may lie where they are going: lift all above, then lay them down in order.
        lifted = [
            fcntl.fcntl(fd, fcntl.F_DUPFD, _LIFT_TO) for fd in (self._null, result_fd, control_fd)
        ]
        for target, source in enumerate((lifted[0], lifted[0], lifted[0], lifted[1], lifted[2])):
            os.dup2(source, target, inheritable=False)
        os.closerange(CONTROL_FD + 1, _HIGHEST_FD)

    def _install_filter(self) -> None:
        if not self._filters:
            return
        pid = os.getpid()
        for index in self._pid_slots:
            self._filters[1].patch(index, pid)
        self._filters[1].install()
