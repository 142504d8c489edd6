"""The steps by which a forked leaf gives up all it does not need, in order, all or nothing.

User code runs only after `Lockdown.enter` has returned; any step that fails raises
`LockdownError`, and the leaf reports the step to the supervisor over the zygote's own socket, which
user code never sees. What a leaf merely inherits is done in the zygote, once: every page that a
leaf touches costs it 2 to 3 µs.
"""

from __future__ import annotations

import os
import resource
import signal
import sys

from service.sandbox.guest import bpf, syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from service.sandbox.guest.landlock import Ruleset

_STACK_BYTES = 8 << 20
# The zygote keeps its three lowest on /dev/null, as its leaves do, and holds these two for them.
_RESULT_FD = 3
CONTROL_FD = 4
_FAMILY_MARGIN = 16
_FAMILY_NICE = 10
_HIGHEST_FD = (1 << 31) - 1  # close_range: one call, however high

# Names: this module is imported where the kernel does not have them all.
_LIMITED = ("AS", "FSIZE", "NOFILE", "CPU", "CORE", "MEMLOCK", "MSGQUEUE", "STACK", "NPROC")


def reserve_descriptors() -> None:
    """Keep the descriptors that leaves use from being taken by anything that stays open."""
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    for target in (_RESULT_FD, CONTROL_FD):
        if target != null:
            os.dup2(null, target, inheritable=False)
    if null > CONTROL_FD:
        os.close(null)


class LockdownError(Exception):
    """A layer could not be put in place."""


class Limits:
    """Resource limits of one leaf.

    Attributes:
        memory_bytes: Address space beyond what the zygote already has.
        file_bytes: Largest file.
        open_files: Open descriptors.
        cores: CPUs a leaf may use.
        first_cpu: Where those of the first slot begin.
        max_processes: Processes of a leaf's family, which the zygote watches.
        cpus: CPUs this process may use.
    """

    def __init__(
        self,
        memory_bytes: int,
        file_bytes: int,
        open_files: int,
        cores: int,
        first_cpu: int,
        max_processes: int,
    ) -> None:
        """Keep the limits; ``max_processes`` is 0 where there are no children."""
        self.memory_bytes = memory_bytes
        self.file_bytes = file_bytes
        self.open_files = open_files
        self.cores = cores
        self.first_cpu = first_cpu
        self.max_processes = max_processes
        self._uid_processes = 0
        limited = [getattr(resource, f"RLIMIT_{name}") for name in _LIMITED]
        self._ceilings = {which: _ceiling(which) for which in limited}
        self.cpus = sorted(os.sched_getaffinity(0))

    def inherit(self, base_bytes: int) -> None:
        """Set on this zygote what its leaves only need to inherit.

        Args:
            base_bytes: Its own address space, which is not counted against a leaf.
        """
        wanted = {
            resource.RLIMIT_AS: base_bytes + self.memory_bytes,
            resource.RLIMIT_FSIZE: self.file_bytes,
            resource.RLIMIT_CORE: 1,  # 0 would still let a dump through to a pipe
            resource.RLIMIT_MEMLOCK: 0,
            resource.RLIMIT_MSGQUEUE: 0,
            resource.RLIMIT_STACK: _STACK_BYTES,
        }
        if self.max_processes:
            self._uid_processes = _tasks_of_uid()
        for which, value in wanted.items():
            self._set(which, value)

    def apply(self, cpu_s: int, slot: int) -> None:
        """Set the rest on this leaf: what a zygote cannot live with."""
        self._set(resource.RLIMIT_NOFILE, self.open_files)
        self._set(resource.RLIMIT_CPU, cpu_s)
        if self.max_processes:
            # The kernel counts a uid's tasks on the whole node: only a wall behind the zygote's
            # count.
            most = self._uid_processes + _FAMILY_MARGIN * self.max_processes
            self._set(resource.RLIMIT_NPROC, most)
            os.nice(_FAMILY_NICE)  # many of them must not starve the one that stops them
        if self.cores < len(self.cpus):
            first = self.first_cpu + slot * self.cores
            os.sched_setaffinity(
                0, {self.cpus[(first + i) % len(self.cpus)] for i in range(self.cores)}
            )

    def _set(self, which: int, value: int) -> None:
        limit = min(value, self._ceilings[which])
        resource.setrlimit(which, (limit, limit))


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
        dumpable: bool,
    ) -> None:
        """Prepare; None leaves a layer out (which the self-test then finds and reports).

        Args:
            limits: Resource limits.
            scratch: Path pattern.
            ruleset: Of Landlock.
            programs: Filters of zygote and leaf.
            dumpable: Whether the zygote may look at what its leaves have open.
        """
        self.scratch = scratch
        self._limits = limits
        self._ruleset = ruleset
        self._filters = (
            tuple(
                syscalls.FilterProgram(program, bpf.own_pid_slots(program)) for program in programs
            )
            if programs
            else ()
        )
        self._prctl = syscalls.number("prctl")
        self._dumpable = dumpable
        self._scratch: dict[int, tuple[str, int]] = {}
        self._slot = -1

    def filter_zygote(self) -> None:
        """Put the long filter on this process and all that it forks.

        Raises:
            OSError: The kernel refused.
        """
        if self._filters:
            self._filters[0].install()

    def settle(self) -> None:
        """Take what this zygote is now as what its leaves start from."""
        os.umask(0o077)
        self._limits.inherit(address_space_bytes())

    def go_to(self, slot: int) -> None:
        """Make the scratch of ``slot`` this zygote's own, for the leaf that it forks next.

        Raises:
            OSError: It is gone.
        """
        if slot == self._slot:
            return
        found = self._scratch.get(slot)
        if found is None:
            path = self.scratch.format(slot=slot)
            opened = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            found = self._scratch[slot] = (path, opened)
        os.fchdir(found[1])
        for name in ("HOME", "TMPDIR", "PWD"):
            os.environ[name] = found[0]
        self._slot = slot

    def enter(self, *, parent: int, slot: int, cpu_s: int, result_fd: int) -> None:
        """Lock this process, which was forked after `go_to` its slot.

        The zygote's socket is closed last, once nothing can fail any more.

        Args:
            parent: Pid of the zygote, as this process sees it.
            slot: Which scratch is ours.
            cpu_s: CPU seconds, the second line behind the supervisor's deadline.
            result_fd: Becomes descriptor 3.

        Raises:
            LockdownError: A step failed; user code must not run.
        """
        step = "group"
        try:
            # Not a session: each would get its own share of the CPUs, and niceness would mean
            # nothing.
            os.setpgid(0, 0)
            syscalls.checked(
                syscalls.fast(self._prctl, syscalls.PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0)
            )
            if os.getppid() != parent:
                _give_up("the zygote is gone")
            step = "landlock"
            if self._ruleset is not None:
                self._ruleset.enforce(self._scratch[slot][1])
            if self._dumpable:
                syscalls.checked(syscalls.fast(self._prctl, syscalls.PR_SET_DUMPABLE, 1, 0, 0))
            step = "descriptors"
            os.dup2(result_fd, _RESULT_FD, inheritable=False)
            os.closerange(CONTROL_FD + 1, _HIGHEST_FD)
            # After the zygote's many descriptors are gone: they would not fit the limit.
            step = "rlimits"
            self._limits.apply(cpu_s, slot)
            step = "seccomp"
            if self._filters:
                self._filters[1].install(os.getpid())
        except (OSError, ValueError) as error:
            msg = f"{step}: {error}"
            raise LockdownError(msg) from error
        os.close(CONTROL_FD)


def _give_up(why: str) -> None:
    raise OSError(why)
