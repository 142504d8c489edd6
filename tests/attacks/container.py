"""Run a command as an ordinary container would: ``python container.py --keep PATH … -- COMMAND …`` (as root).

An unprivileged uid without capabilities under no_new_privs and Docker's default seccomp profile, in pid,
mount, network and IPC namespaces made by "the runtime", on a read-only root with a 64 MB /dev/shm.
"""

from __future__ import annotations

import argparse
import ctypes
import fcntl
import json
import os
import platform
import socket
import struct
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from service.sandbox.guest import syscalls

HERE = Path(__file__).parent
UID = 1000
_UNSHARE = 0x00020000 | 0x04000000 | 0x08000000 | 0x20000000 | 0x40000000
_REC_PRIVATE, _REC_BIND, _MOVE = 0x44000, 0x5000, 0x2000
_ALLOW, _ERRNO, _LOAD, _JEQ, _JSET, _RET = 0x7FFF0000, 0x00050000, 0x20, 0x15, 0x45, 0x06
_libc = ctypes.CDLL(None, use_errno=True)


def _mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    if _libc.mount(
        source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), options.encode()
    ):
        raise OSError(ctypes.get_errno(), f"mount {target}: {os.strerror(ctypes.get_errno())}")


def container_filter() -> bytes:
    """Return Docker's default profile as a seccomp program; foreign calling conventions are let through."""
    numbers = json.loads((HERE / "syscalls_x86_64.json").read_text())
    profile = json.loads((HERE / "docker_profile.json").read_text())
    code = [(_LOAD, 0, 0, 4), (_JEQ, 1, 0, 0xC000003E), (_RET, 0, 0, _ALLOW), (_LOAD, 0, 0, 0)]
    for name in profile["allowed"]:
        code += [(_JEQ, 0, 1, numbers[name]), (_RET, 0, 0, _ALLOW)]
    for name in profile["enosys"]:
        code += [(_JEQ, 0, 1, numbers[name]), (_RET, 0, 0, _ERRNO | 38)]
    forbidden = profile["clone_forbidden_flags"]
    code += [
        (_JEQ, 0, 4, numbers["clone"]),
        (_LOAD, 0, 0, 16),
        (_JSET, 0, 1, forbidden),
        (_RET, 0, 0, _ERRNO | 1),
    ]
    code += [(_RET, 0, 0, _ALLOW)]
    for name, values, inside, outside in (
        ("personality", profile["personality_allowed"], _ALLOW, _ERRNO | 1),
        ("socket", profile["socket_forbidden_families"], _ERRNO | 22, _ALLOW),
    ):
        body = [(_LOAD, 0, 0, 16)]
        for value in values:
            body += [(_JEQ, 0, 1, value), (_RET, 0, 0, inside)]
        code += [(_JEQ, 0, len(body) + 1, numbers[name]), *body, (_RET, 0, 0, outside)]
    code.append((_RET, 0, 0, _ERRNO | 1))
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)


def _loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, 0x8914, struct.pack("16sH14x", b"lo", 1))


def _build_root(keep: list[str]) -> None:
    _mount("none", "/", "none", _REC_PRIVATE)
    stage = "/mnt"
    _mount("tmpfs", stage, "tmpfs", 0)
    for index, path in enumerate(keep):
        Path(f"{stage}/{index}").mkdir()
        _mount(path, f"{stage}/{index}", "none", _REC_BIND)
    for hidden, options in (
        ("/root", "mode=755"),
        ("/tmp", "mode=1777"),
        ("/dev/shm", "mode=1777,size=64m"),
    ):
        _mount("tmpfs", hidden, "tmpfs", 0, options)
    for index, path in enumerate(keep):
        if not Path(path).exists():
            Path(path).mkdir(parents=True)
            _mount(f"{stage}/{index}", path, "none", _MOVE)
    read_only = (ctypes.c_uint64 * 4)(1, 0, 0, 0)
    syscalls.call("mount_setattr", -100, b"/", 0x8000, ctypes.byref(read_only), 32)
    writable = (ctypes.c_uint64 * 4)(0, 1, 0, 0)
    for place in (b"/tmp", b"/dev/shm"):
        syscalls.call("mount_setattr", -100, place, 0, ctypes.byref(writable), 32)
    _mount("proc", "/proc", "proc", 0)
    _mount("tmpfs", "/var/tmp", "tmpfs", 0, "mode=1777")


def main() -> None:
    """Become the container and execute the command."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--keep", action="append", default=[])
    parser.add_argument(
        "--no-filter", action="store_true", help="an unprivileged user on a plain machine instead"
    )
    parser.add_argument("command", nargs="+")
    options = parser.parse_args()
    if platform.machine() != "x86_64":
        sys.exit("the profile's numbers are for x86-64")
    if _libc.unshare(_UNSHARE):
        sys.exit(f"unshare: {os.strerror(ctypes.get_errno())}")
    child = os.fork()
    if child:
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, 9)
    _loopback_up()
    _build_root(options.keep)
    program = syscalls.FilterProgram(container_filter())
    syscalls.drop_bounding_set()
    os.setgroups([])
    os.setresgid(UID, UID, UID)
    os.setresuid(UID, UID, UID)
    syscalls.drop_capabilities()
    if not options.no_filter:
        syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
        program.install()
    os.chdir("/")
    # pid 1 should reap what the command leaves: stay, and let a child be the command.
    command = os.fork()
    if command == 0:
        os.execvp(options.command[0], options.command)  # noqa: S606
    while True:
        pid, status = os.wait()
        if pid == command:
            os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


if __name__ == "__main__":
    main()
