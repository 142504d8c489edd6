"""The base zygote: is executed, isolates itself, and forks every tier."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import socket
import sys
from typing import Any, NoReturn

from service.sandbox.guest import (
    bpf,
    landlock,
    leaf,
    lockdown,
    namespaces,
    syscalls,
    warmups,
    zygote,
)

_LIBRARIES = (
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/usr/share/zoneinfo",
    "/etc/ld.so.cache",
    "/etc/localtime",
)
_PROGRAMS = ("/bin", "/usr/bin")
_OOM_SCORE = "800"
_NICE = 5
_LOWEST_FD = 16


def main(control_fd: int, settings_fd: int) -> None:
    """Isolate this process as told, report, and fork tiers until the supervisor goes."""
    control = socket.socket(fileno=_lifted(control_fd))
    try:
        settings_fd = _lifted(settings_fd)
        lockdown.reserve_descriptors()
        settings = json.loads(leaf.read_all(settings_fd))
        os.close(settings_fd)
        _isolate_and_serve(control, settings)
    except (namespaces.NamespaceError, OSError, KeyError, ValueError) as error:
        text = f"{type(error).__name__}: {error}"
        control.send(zygote.REPLY.pack(zygote.FAILED, 0, 0, 0, 0) + text.encode()[:1000])


def _lifted(fd: int) -> int:
    """Return a copy of ``fd`` that is above every descriptor of a leaf, and close ``fd``."""
    copy = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _LOWEST_FD)
    os.close(fd)
    return copy


def _isolate_and_serve(control: socket.socket, settings: dict[str, Any]) -> None:
    os.setsid()
    os.umask(0o022)  # the graders' uid must get through the directories of the new root
    os.nice(_NICE)
    with (
        contextlib.suppress(OSError),
        open("/proc/self/oom_score_adj", "w", encoding="ascii") as file,
    ):
        file.write(_OOM_SCORE)
    read_paths = interpreter_paths(settings)
    uid, gid = _identity(settings, read_paths)
    scratch = settings["scratch_root"] + "/{slot}"
    if settings["namespaces"]:
        namespaces.unshare()
        _continue_as_pid_1(control)
        namespaces.build_root(
            settings["root_base"],
            read_paths,
            slots=settings["slots"],
            uid=uid,
            gid=gid,
            disk_bytes=settings["disk_bytes"],
            disk_files=settings["disk_files"],
        )
        scratch = namespaces.SCRATCH + "/{slot}"
        _show_scratch(control, scratch, settings["slots"])
    _drop(uid, gid)
    if settings["namespaces"]:  # a change of uid has cleared it
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
    syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)
    prepared, facts = _prepare(settings, read_paths, scratch)
    facts["packages"] = [name for name in warmups.PACKAGES if warmups.is_installed(name)]
    facts |= {"uid": uid, "python": ".".join(map(str, sys.version_info[:3])), "gid": gid}
    control.send(zygote.REPLY.pack(zygote.READY, 0, 0, 0, 0) + json.dumps(facts).encode())
    _serve(control, prepared, settings, scratch)


def _show_scratch(control: socket.socket, scratch: str, slots: int) -> None:
    """Send the descriptor of every slot's directory, in order, as many at a time as may be."""
    for first in range(0, slots, zygote.MAX_FDS):
        numbers = range(first, min(first + zygote.MAX_FDS, slots))
        fds = [os.open(scratch.format(slot=n), os.O_RDONLY | os.O_CLOEXEC) for n in numbers]
        socket.send_fds(control, [zygote.REPLY.pack(zygote.SCRATCH, 0, 0, 0, 0)], fds)
        for fd in fds:
            os.close(fd)


def interpreter_paths(settings: dict[str, Any]) -> list[str]:
    """Return what user code may read: interpreter, packages, libraries, time zones."""
    standard = os.path.dirname(os.__file__)
    libraries = f"{sys.base_prefix}/lib"
    own = [f"{libraries}/{name}" for name in os.listdir(libraries) if name.startswith("libpython")]
    paths = [standard, *own, *_LIBRARIES, *settings["read_paths"]]
    if sys.prefix != sys.base_prefix:
        paths += [sys.prefix, os.path.realpath(sys.executable)]
    if settings["profile"] == "processes":
        paths += [*_PROGRAMS, f"{sys.base_prefix}/bin"]
    return [path for path in dict.fromkeys(paths) if os.path.lexists(path)]


def _identity(settings: dict[str, Any], read_paths: list[str]) -> tuple[int, int]:
    """Return whose rights graders run with.

    Not root if we are root. Only where the interpreter itself is out of everybody else's reach (a
    build under root's home, and no mount namespace to show it in) do we stay uid 0, without any
    capability.
    """
    if os.geteuid() != 0:
        return os.getuid(), os.getgid()
    uid, gid = settings["uid"], settings["gid"]
    if settings["namespaces"]:
        return uid, gid
    os.setegid(gid)
    os.seteuid(uid)
    reachable = all(
        os.access(path, os.R_OK, effective_ids=True) for path in (read_paths[0], sys.executable)
    )
    os.seteuid(0)
    os.setegid(0)
    return (uid, gid) if reachable else (0, 0)


def _drop(uid: int, gid: int) -> None:
    syscalls.drop_bounding_set()
    if os.geteuid() == 0 and uid != 0:
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    syscalls.drop_capabilities()
    syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)


def _continue_as_pid_1(control: socket.socket) -> None:
    """Fork into the new pid namespace; the outer process waits and takes the inner one along."""
    child = os.fork()
    if child == 0:
        return
    control.close()
    _, status = os.waitpid(child, 0)
    os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


def _prepare(
    settings: dict[str, Any], read_paths: list[str], scratch: str
) -> tuple[lockdown.Lockdown, dict[str, Any]]:
    profile = settings["profile"]
    version = min(landlock.abi(), settings["landlock_abi"])
    ruleset = None
    if version:
        ruleset = landlock.Ruleset(version, may_execute=profile == "processes")
        ruleset.allow_reading(read_paths)
        for device in ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"):
            ruleset.allow_device(device, landlock.READ_FILE | landlock.WRITE_FILE)
        ruleset.seal()
    programs = None
    if settings["seccomp"]:
        machine, decided = os.uname().machine, version >= landlock.ABI_TRUNCATE
        programs = (
            bpf.zygote_program(machine, profile, landlock=decided),
            bpf.leaf_program(machine, profile, landlock=decided),
        )
    limits = lockdown.Limits(
        settings["memory_bytes"],
        settings["disk_bytes"],
        settings["open_files"],
        settings["cores"],
        settings["first_cpu"],
        settings["max_processes"] if profile == "processes" else 0,
    )
    prepared = lockdown.Lockdown(
        limits=limits,
        scratch=scratch,
        ruleset=ruleset,
        programs=programs,
        # In namespaces only families need to be looked at, and without Landlock leaves would see
        # each other.
        dumpable=bool(version) and (profile == "processes" or not settings["namespaces"]),
    )
    inodes = {
        name: os.stat(f"/proc/self/ns/{name}").st_ino
        for name in ("user", "pid", "net", "ipc", "mnt")
        if os.path.exists(f"/proc/self/ns/{name}")
    }
    return prepared, {
        "landlock_abi": version,
        "seccomp": programs is not None,
        "namespaces": inodes,
    }


def _serve(
    control: socket.socket, prepared: lockdown.Lockdown, settings: dict[str, Any], scratch: str
) -> NoReturn:
    for name in ("HOME", "TMPDIR"):
        os.environ[name] = scratch.format(slot="zygote")
    with contextlib.suppress(OSError):
        os.chdir(scratch.format(slot="zygote"))
    poll = select.poll()
    poll.register(control, select.POLLIN)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    while True:
        poll.poll(1000)
        _collect()
        try:
            message, fds, _, _ = socket.recv_fds(
                control, zygote.REQUEST.size, 4, socket.MSG_DONTWAIT
            )
        except BlockingIOError:
            continue
        if not message:
            os._exit(0)
        _, bits, *_ = zygote.REQUEST.unpack(message)
        _fork_tier(control, fds, bits, prepared, settings)


def _collect() -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _fork_tier(
    control: socket.socket,
    fds: list[int],
    bits: int,
    prepared: lockdown.Lockdown,
    settings: dict[str, Any],
) -> None:
    parent = os.getpid()
    if os.fork():
        for fd in fds:
            os.close(fd)
        return
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
        syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)
        if os.getppid() == parent:
            control.close()
            os.dup2(fds[0], lockdown.CONTROL_FD, inheritable=False)
            os.close(fds[0])
            zygote.serve_tier(socket.socket(fileno=lockdown.CONTROL_FD), bits, prepared, settings)
    finally:
        os._exit(0)
