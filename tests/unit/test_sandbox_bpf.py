"""The seccomp policy, proved by running the programs in a small interpreter of classic BPF."""

import errno
import struct

import pytest

from service.sandbox.guest import bpf
from service.sandbox.guest.tables import ARCHITECTURES, NUMBERS

ALLOW, ERRNO, KILL = 0x7FFF0000, 0x00050000, 0x80000000
PID = 4242


def decide(program: bytes, machine: str, number: int, *arguments: int) -> int:
    """Return what ``program`` says about one system call."""
    code = list(struct.iter_unpack("=HBBI", program))
    words = [number, ARCHITECTURES[machine][0], 0, 0]
    for argument in (*arguments, *[0] * (6 - len(arguments))):
        words += [argument & 0xFFFFFFFF, argument >> 32 & 0xFFFFFFFF]
    accumulator = at = 0
    while True:
        operation, yes, no, constant = code[at]
        at += 1
        match operation:
            case 0x20:
                accumulator = words[constant // 4]
            case 0x06:
                return int(constant)
            case 0x15:
                at += yes if accumulator == constant else no
            case 0x35:
                at += yes if accumulator >= constant else no
            case 0x45:
                at += yes if accumulator & constant else no
            case _:
                raise AssertionError(operation)


def verdict(name: str, *arguments: int, machine: str = "x86_64", **policy: str | bool) -> int:
    """Return what a leaf gets: the stricter of its own and its zygote's filter."""
    profile = policy.get("profile", "strict")
    landlock = bool(policy.get("landlock", True))
    assert profile in ("strict", "processes")
    number = NUMBERS[name][ARCHITECTURES[machine][1]]
    assert number is not None
    leaf = bytearray(bpf.leaf_program(machine, profile, landlock=landlock))  # type: ignore[arg-type]
    for index in bpf.own_pid_slots(bytes(leaf)):
        struct.pack_into("=I", leaf, index * 8 + 4, PID)
    zygote = bpf.zygote_program(machine, profile, landlock=landlock)  # type: ignore[arg-type]
    said = [decide(program, machine, number, *arguments) for program in (bytes(leaf), zygote)]
    return next((one for one in said if one != ALLOW), ALLOW)


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("read", (), ALLOW),
        ("openat", (0, 0, 0o101), ALLOW),
        ("socket", (2, 1, 0), ERRNO | errno.EPERM),
        ("execve", (), ERRNO | errno.EPERM),
        ("clone", (0x11,), ERRNO | errno.EPERM),
        ("clone", (0x10000 | 0x100 | 0x400,), ALLOW),
        ("clone", (0x10000 | 0x100,), ERRNO | errno.EPERM),
        ("clone", (0x10000 | 0x400 | 0x10000000,), ERRNO | errno.EPERM),
        ("close_range", (5, 9, 0), ALLOW),
        ("close_range", (5, 9, 2), ERRNO | errno.EPERM),
        ("clone3", (), ERRNO | errno.ENOSYS),
        ("kill", (PID, 9), ALLOW),
        ("kill", (1, 9), ERRNO | errno.EPERM),
        ("kill", (0xFFFFFFFF, 9), ERRNO | errno.EPERM),
        ("tgkill", (PID, PID, 6), ALLOW),
        ("prlimit64", (0, 7), ALLOW),
        ("prlimit64", (1, 7), ERRNO | errno.EPERM),
        ("prlimit64", (PID, 7, 1), ALLOW),
        ("prlimit64", (0, 4, 0), ALLOW),
        ("prlimit64", (0, 4, 1), ERRNO | errno.EPERM),
        ("prlimit64", (PID, 4, 1 << 32), ERRNO | errno.EPERM),
        ("setrlimit", (3,), ALLOW),
        ("fcntl", (3, 4, 0o4000), ALLOW),
        ("fcntl", (3, 4, 0o20000), ERRNO | errno.EPERM),
        ("fcntl", (3, 8, 1), ERRNO | errno.EPERM),
        ("socketpair", (1, 1 | 0o2004000), ALLOW),
        ("socketpair", (1, 2), ERRNO | errno.EPERM),
        ("socketpair", (1, 5), ERRNO | errno.EPERM),
        ("socketpair", (2, 1), ERRNO | errno.EPERM),
        ("sendto", (3, 0, 1, 0, 0), ALLOW),
        ("sendto", (3, 0, 1, 0, 1 << 32), ERRNO | errno.EPERM),
        ("fchmodat", (), ERRNO),
        ("memfd_create", (), ERRNO | errno.EPERM),
        ("sendmsg", (), ERRNO | errno.EPERM),
        ("seccomp", (1,), ERRNO | errno.EPERM),
        ("pidfd_open", (PID,), ERRNO | errno.EPERM),
        ("wait4", (), ERRNO | errno.EPERM),
        ("setpgid", (), ERRNO | errno.EPERM),
        ("prctl", (15,), ALLOW),
        ("prctl", (1,), ERRNO | errno.EPERM),
    ],
)
def test_strict_policy(machine: str, name: str, arguments: tuple[int, ...], expected: int) -> None:
    assert verdict(name, *arguments, machine=machine) == expected


@pytest.mark.parametrize("name", ["execve", "wait4", "kill", "clone"])
def test_processes_may_have_children(name: str) -> None:
    assert verdict(name, profile="processes") == ALLOW


@pytest.mark.parametrize("name", ["setpgid", "setsid", "socket", "seccomp"])
def test_processes_may_not_leave_their_family(name: str) -> None:
    assert verdict(name, profile="processes") == ERRNO | errno.EPERM


def test_without_landlock_files_are_read_only() -> None:
    assert verdict("openat", 0, 0, 0o2000000, landlock=False) == ALLOW
    assert verdict("openat", 0, 0, 0o101, landlock=False) == ERRNO | errno.EPERM
    assert verdict("truncate", landlock=False) == ERRNO | errno.EACCES


def test_foreign_calling_conventions_are_killed() -> None:
    program = bpf.zygote_program("x86_64", "strict", landlock=True)
    assert decide(program, "aarch64", 63) == KILL
    assert decide(program, "x86_64", 0x40000000 + 39) == KILL


def test_a_leafs_own_filter_is_short() -> None:
    # Its length is paid in every call: 0.5 ms for 450 instructions.
    assert len(bpf.leaf_program("x86_64", "strict", landlock=True)) // 8 < 100
