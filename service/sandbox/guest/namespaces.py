"""A private view of the machine for the zygotes: mounts, pids, network, IPC and users.

Built once, around the base zygote. The new root holds the interpreter's folders read-only, a few
devices, an own ``/proc`` and one size-limited tmpfs per slot, and nothing else, so that not even
the existence of other files shows. Containers usually refuse this; the zygote is then started again
without it.
"""

from __future__ import annotations

import ctypes
import os
import stat

from service.sandbox.guest import syscalls

_NEWNS, _NEWUTS, _NEWIPC, _NEWUSER, _NEWPID, _NEWNET = (
    0x00020000,
    0x04000000,
    0x08000000,
    0x10000000,
    0x20000000,
    0x40000000,
)
_MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_REMOUNT, _MS_BIND, _MS_REC, _MS_PRIVATE = (
    2,
    4,
    8,
    32,
    4096,
    16384,
    1 << 18,
)
_MNT_DETACH = 2
_MOUNT_ATTR_RDONLY = 1
_AT_RECURSIVE = 0x8000
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
_USERS = "root:x:0:0::/:/bin/false\ngrader:x:{uid}:{gid}::/:/bin/false\n"

SCRATCH = "/scratch"

_libc = ctypes.CDLL(None, use_errno=True)


class NamespaceError(Exception):
    """This machine does not let us have the namespaces."""


def _check(what: str, result: int) -> None:
    if result != 0:
        msg = f"{what}: {os.strerror(ctypes.get_errno())}"
        raise NamespaceError(msg)


def _mount(
    source: str, target: str, kind: str | None, flags: int, options: str | None = None
) -> None:
    arguments = [value.encode() if value is not None else None for value in (source, target, kind)]
    data = options.encode() if options is not None else None
    _check(f"mount {target}", _libc.mount(*arguments, ctypes.c_ulong(flags), data))


def unshare() -> None:
    """Enter new namespaces; a user namespace only where we are not root, as ourselves.

    Raises:
        NamespaceError: Refused here.
    """
    uid, gid = os.getuid(), os.getgid()
    users = _NEWUSER if uid else 0
    _check("unshare", _libc.unshare(users | _NEWNS | _NEWUTS | _NEWIPC | _NEWPID | _NEWNET))
    if users:
        for name, text in (
            ("setgroups", "deny"),
            ("uid_map", f"{uid} {uid} 1"),
            ("gid_map", f"{gid} {gid} 1"),
        ):
            try:
                with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
                    file.write(text)
            except OSError as error:
                msg = f"{name}: {error}"
                raise NamespaceError(msg) from error


def build_root(
    base: str,
    read_paths: list[str],
    *,
    slots: int,
    uid: int,
    gid: int,
    disk_bytes: int,
    disk_files: int,
) -> None:
    """Move this process (pid 1 of its namespace) into a root that holds only what graders need.

    Args:
        base: An existing directory to build on; stays empty for everybody else.
        read_paths: Files and directories to show, read-only, at their own paths.
        slots: How many scratch directories, beside the zygotes' own.
        uid: Owner of the scratch directories.
        gid: Their group.
        disk_bytes: Size of each.
        disk_files: Files and directories in each.

    Raises:
        NamespaceError: Refused here.
    """
    _mount("none", "/", None, _MS_REC | _MS_PRIVATE)
    _mount("tmpfs", base, "tmpfs", _MS_NOSUID, "mode=755,size=1m")
    for path in sorted(set(read_paths)):
        _show(base, path)
    os.makedirs(f"{base}/proc")
    _mount("proc", f"{base}/proc", "proc", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC)
    for device in _DEVICES:
        if os.path.exists(device):
            _show(base, device)
    os.makedirs(f"{base}/etc", exist_ok=True)
    with open(f"{base}/etc/passwd", "w", encoding="ascii") as passwd:
        passwd.write(_USERS.format(uid=uid, gid=gid))
    options = f"mode=700,uid={uid},gid={gid},size={disk_bytes},nr_inodes={disk_files}"
    for name in (*map(str, range(slots)), "zygote"):
        target = f"{base}{SCRATCH}/{name}"
        os.makedirs(target)
        _mount("tmpfs", target, "tmpfs", _MS_NOSUID | _MS_NODEV, options)
    _enter(base)


def _show(base: str, path: str) -> None:
    target = base + path
    if os.path.lexists(target):  # beneath a folder that is shown already
        return
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if os.path.islink(path):
        os.symlink(os.readlink(path), target)
        return
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        os.mkdir(target)
    else:
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644))
    _mount(path, target, None, _MS_BIND | _MS_REC)
    if not stat.S_ISCHR(mode):
        _read_only(target)


def _read_only(target: str) -> None:
    attributes = (ctypes.c_uint64 * 4)(_MOUNT_ATTR_RDONLY, 0, 0, 0)
    try:
        syscalls.call(
            "mount_setattr",
            -100,
            target.encode(),
            _AT_RECURSIVE,
            ctypes.byref(attributes),
            ctypes.sizeof(attributes),
        )
    except OSError as error:
        msg = f"read-only {target}: {error}"
        raise NamespaceError(msg) from error


def _enter(base: str) -> None:
    old = f"{base}/old"
    os.mkdir(old)
    try:
        syscalls.call("pivot_root", base.encode(), old.encode())
    except OSError as error:
        msg = f"pivot_root: {error}"
        raise NamespaceError(msg) from error
    os.chdir("/")
    _check("umount", _libc.umount2(b"/old", _MNT_DETACH))
    os.rmdir("/old")
    _mount("none", "/", None, _MS_REMOUNT | _MS_BIND | 1 | _MS_NOSUID)
