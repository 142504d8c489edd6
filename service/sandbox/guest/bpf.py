"""The system calls a leaf may make, and the seccomp program that says so.

`program` is a pure function from a profile to bytes. The policy is an allow-list: a call that is
not named is refused with EPERM, so that the grader sees a Python exception; a foreign calling
convention (32-bit entry, x32 numbers), which would make the numbers mean something else, kills the
process.
"""

from __future__ import annotations

import errno
import struct

from service.sandbox.guest.tables import ARCHITECTURES, NUMBERS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal

    Profile = Literal["strict", "processes"]

_ALLOW = 0x7FFF0000
_ERRNO = 0x00050000
_KILL_PROCESS = 0x80000000
_X32_BIT = 0x40000000

# classic BPF: load word, jump if equal / greater or equal / any bit set, return
_LOAD, _JEQ, _JGE, _JSET, _RET = 0x20, 0x15, 0x35, 0x45, 0x06
_OFFSET_NUMBER, _OFFSET_ARCH, _OFFSET_ARGS = 0, 4, 16

# Placeholder of the leaf's own pid, written in by `own_pid_slots` after the fork.
OWN_PID = 0x7FFFFFFE

PLAIN = [
    "read",
    "write",
    "readv",
    "writev",
    "pread64",
    "pwrite64",
    "preadv",
    "pwritev",
    "preadv2",
    "pwritev2",
    "close",
    "lseek",
    "fstat",
    "stat",
    "lstat",
    "newfstatat",
    "statx",
    "statfs",
    "fstatfs",
    "access",
    "faccessat",
    "faccessat2",
    "readlink",
    "readlinkat",
    "getcwd",
    "chdir",
    "fchdir",
    "getdents",
    "getdents64",
    "umask",
    "fsync",
    "fdatasync",
    "flock",
    "sendfile",
    "copy_file_range",
    "fadvise64",
    "readahead",
    "mmap",
    "mprotect",
    "munmap",
    "mremap",
    "brk",
    "madvise",
    "msync",
    "mincore",
    "rt_sigaction",
    "rt_sigprocmask",
    "rt_sigreturn",
    "rt_sigpending",
    "rt_sigtimedwait",
    "rt_sigsuspend",
    "sigaltstack",
    "pipe",
    "pipe2",
    "select",
    "pselect6",
    "poll",
    "ppoll",
    "epoll_create",
    "epoll_create1",
    "epoll_ctl",
    "epoll_wait",
    "epoll_pwait",
    "epoll_pwait2",
    "eventfd",
    "eventfd2",
    "dup",
    "dup2",
    "dup3",
    "sched_yield",
    "nanosleep",
    "clock_nanosleep",
    "clock_gettime",
    "clock_getres",
    "gettimeofday",
    "time",
    "times",
    "getitimer",
    "setitimer",
    "alarm",
    "pause",
    "getpid",
    "gettid",
    "getppid",
    "getpgrp",
    "getpgid",
    "getsid",
    "getuid",
    "geteuid",
    "getgid",
    "getegid",
    "getgroups",
    "getresuid",
    "getresgid",
    "uname",
    "sysinfo",
    "getcpu",
    "sched_getaffinity",
    "sched_getparam",
    "sched_getscheduler",
    "sched_get_priority_max",
    "sched_get_priority_min",
    "getpriority",
    "getrlimit",
    "getrusage",
    "getrandom",
    "futex",
    "futex_waitv",
    "set_robust_list",
    "get_robust_list",
    "rseq",
    "arch_prctl",
    "set_tid_address",
    "membarrier",
    "exit",
    "exit_group",
    "restart_syscall",
    "recvfrom",
    "getsockname",
    "getsockopt",
    "shutdown",
]

# Landlock decides about these where it is active; without it they are cut down by `_READ_ONLY`.
FILES = [
    "open",
    "openat",
    "openat2",
    "creat",
    "mkdir",
    "mkdirat",
    "rmdir",
    "unlink",
    "unlinkat",
    "rename",
    "renameat",
    "renameat2",
    "link",
    "linkat",
    "symlink",
    "symlinkat",
    "truncate",
    "ftruncate",
    "fallocate",
]

# Landlock does not cover them, and refusing breaks shutil.copy and tarfile: say yes, do nothing.
PRETENDED = [
    "chmod",
    "fchmod",
    "fchmodat",
    "fchmodat2",
    "chown",
    "fchown",
    "lchown",
    "fchownat",
    "utime",
    "utimes",
    "utimensat",
    "futimesat",
]

CHILDREN = ["fork", "vfork", "execve", "execveat", "wait4", "waitid"]

# What a zygote needs and a leaf must not have. Installing a filter costs by its length (measured:
# 0.5 ms for 450 instructions, 0.05 ms for a few), so the long list is put on the zygote once, with
# these allowed, and each leaf adds a short one that takes them away.
ZYGOTE = [
    *("clone", "wait4", "waitid", "sendmsg", "recvmsg", "pidfd_open", "pidfd_send_signal"),
    *("prctl", "prlimit64", "setpgid", "setpriority", "sched_setaffinity"),
    *("kill", "tkill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo"),
    *("seccomp", "landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self"),
]

_CLONE_THREAD = 0x00010000
_CLONE_FILES = 0x00000400
_CLOSE_RANGE_UNSHARE = 2
_RLIMIT_CORE = 4
_CLONE_NEW_NAMESPACES = 0x7E020080
_O_WRITING = 0o1 | 0o2 | 0o100 | 0o1000
_O_ASYNC = 0o20000
_F_SETFL = 4
_FCNTL = (0, 1, 2, 3, 5, 6, 7, 36, 37, 38, 1030, 1032, 1034)
_IOCTL = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)
_PRCTL = (3, 15, 16, 0x53564D41)
_AF_UNIX, _SOCK_STREAM, _SOCK_TYPE_BITS = 1, 1, 0xF

Instruction = tuple[int, int, int, int]
# One test of a 32-bit half of an argument: (argument, high half?, how, constant, must hold?)
Test = tuple[int, bool, int, int, bool]


def _equal(argument: int, value: int) -> Test:
    return (argument, False, _JEQ, value, True)


def _differs(argument: int, value: int) -> Test:
    return (argument, False, _JEQ, value, False)


def _no_bits(argument: int, bits: int) -> Test:
    return (argument, False, _JSET, bits, False)


def _has_bits(argument: int, bits: int) -> Test:
    return (argument, False, _JSET, bits, True)


def _null(argument: int) -> tuple[Test, Test]:
    return (argument, False, _JEQ, 0, True), (argument, True, _JEQ, 0, True)


# Even of what a zygote needs, this much is refused to it and its leaves alike: threads with
# descriptors of their own, which could keep files open that the watch does not see, and changes to
# the limit that keeps dumpable leaves from being dumped.
EVERYWHERE: dict[str, int | list[tuple[Test, ...]]] = {
    "clone": [(_has_bits(0, _CLONE_FILES),), (_no_bits(0, _CLONE_THREAD),)],
    "prlimit64": [(_differs(1, _RLIMIT_CORE),), _null(2)],
}


def policy(profile: Profile, *, landlock: bool) -> dict[str, int | list[tuple[Test, ...]]]:
    """Return what each named call gets: an action, or alternatives of tests that allow it.

    Args:
        profile: ``processes`` adds fork, exec and signals to others.
        landlock: Whether file access is decided by Landlock; if not, everything is read-only here.
    """
    own: list[tuple[Test, ...]] = [(_equal(0, OWN_PID),)]
    rules: dict[str, int | list[tuple[Test, ...]]] = dict.fromkeys(PLAIN, _ALLOW)
    rules |= dict.fromkeys(FILES, _ALLOW if landlock else _ERRNO | errno.EACCES)
    if not landlock:
        rules["open"] = [(_no_bits(1, _O_WRITING),)]
        rules["openat"] = [(_no_bits(2, _O_WRITING),)]
        rules["openat2"] = _ERRNO | errno.ENOSYS
    rules |= dict.fromkeys(PRETENDED, _ERRNO)
    rules["clone"] = [(_has_bits(0, _CLONE_THREAD), _no_bits(0, _CLONE_NEW_NAMESPACES))]
    rules["close_range"] = [(_no_bits(2, _CLOSE_RANGE_UNSHARE),)]
    # Its flags lie in memory, out of a filter's sight; glibc falls back to clone.
    rules["clone3"] = _ERRNO | errno.ENOSYS
    rules["kill"] = rules["tkill"] = rules["tgkill"] = rules["rt_sigqueueinfo"] = rules[
        "rt_tgsigqueueinfo"
    ] = own
    rules["setrlimit"] = [(_differs(0, _RLIMIT_CORE),)]
    rules["prlimit64"] = [(_equal(0, 0),), *own]
    rules["fcntl"] = [
        *((_equal(1, command),) for command in _FCNTL),
        (_equal(1, _F_SETFL), _no_bits(2, _O_ASYNC)),
    ]
    rules["ioctl"] = [(_equal(1, command),) for command in _IOCTL]
    rules["prctl"] = [(_equal(0, option),) for option in _PRCTL]
    # asyncio's wake-up pair. A datagram pair could be sent to any path, hence streams only.
    rules["socketpair"] = [(_equal(0, _AF_UNIX), *_masked_type(_SOCK_STREAM))]
    rules["sendto"] = [_null(4)]
    if profile == "processes":
        rules |= dict.fromkeys(CHILDREN, _ALLOW)
        rules["clone"] = [(_no_bits(0, _CLONE_NEW_NAMESPACES),)]
        for name in ("kill", "tkill", "tgkill"):
            rules[name] = _ALLOW
    return rules


def _masked_type(kind: int) -> tuple[Test, ...]:
    # No masked comparison in two instructions: every bit of the type must be as in `kind`.
    on = tuple(_has_bits(1, bit) for bit in (1, 2, 4, 8) if kind & bit)
    return (*on, _no_bits(1, _SOCK_TYPE_BITS & ~kind))


def zygote_program(machine: str, profile: Profile, *, landlock: bool) -> bytes:
    """Return the filter of a tier and its leaves: what neither of them needs is refused.

    Raises:
        KeyError: No table for this architecture.
    """
    audit_arch, _ = ARCHITECTURES[machine]
    code: list[Instruction] = [
        (_LOAD, 0, 0, _OFFSET_ARCH),
        (_JEQ, 1, 0, audit_arch),
        (_RET, 0, 0, _KILL_PROCESS),
        (_LOAD, 0, 0, _OFFSET_NUMBER),
    ]
    if machine == "x86_64":
        code += [(_JGE, 0, 1, _X32_BIT), (_RET, 0, 0, _KILL_PROCESS)]
    rules = policy(profile, landlock=landlock) | dict.fromkeys(ZYGOTE, _ALLOW) | EVERYWHERE
    return _assembled(code, machine, rules, _ERRNO | errno.EPERM)


def leaf_program(machine: str, profile: Profile, *, landlock: bool) -> bytes:
    """Return the filter that a leaf adds, to be completed with its pid at `own_pid_slots`.

    Raises:
        KeyError: No table for this architecture.
    """
    wanted = policy(profile, landlock=landlock)
    rules = {name: wanted.get(name, _ERRNO | errno.EPERM) for name in ZYGOTE}
    rules = {name: rule for name, rule in rules.items() if rule != _ALLOW}
    return _assembled([(_LOAD, 0, 0, _OFFSET_NUMBER)], machine, rules, _ALLOW)


def _assembled(
    code: list[Instruction],
    machine: str,
    rules: dict[str, int | list[tuple[Test, ...]]],
    default: int,
) -> bytes:
    column = ARCHITECTURES[machine][1]
    for name, rule in rules.items():
        number = NUMBERS[name][column]
        if number is None:
            continue
        body = [(_RET, 0, 0, rule)] if isinstance(rule, int) else _alternatives(rule)
        code += [(_JEQ, 0, len(body), number), *body]
    code.append((_RET, 0, 0, default))
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)


def _alternatives(rules: list[tuple[Test, ...]]) -> list[Instruction]:
    code: list[Instruction] = []
    for tests in rules:
        block: list[Instruction] = []
        for left, (argument, high, how, constant, wanted) in zip(
            range(len(tests), 0, -1), tests, strict=True
        ):
            over = (left - 1) * 2 + 1  # to the first instruction after this alternative's RET
            offset = _OFFSET_ARGS + argument * 8 + (4 if high else 0)
            block.append((_LOAD, 0, 0, offset))
            block.append((how, 0, over, constant) if wanted else (how, over, 0, constant))
        code += [*block, (_RET, 0, 0, _ALLOW)]
    return [*code, (_RET, 0, 0, _ERRNO | errno.EPERM)]


def own_pid_slots(instructions: bytes) -> tuple[int, ...]:
    """Return the indices of the instructions whose constant stands for the leaf's own pid."""
    return tuple(
        index
        for index, (code, _, _, constant) in enumerate(struct.iter_unpack("=HBBI", instructions))
        if code == _JEQ and constant == OWN_PID
    )
