"""The scratch directory of a slot: emptied after every call, measured while a long one runs.

What a grader leaves behind is hostile: thousands of nested directories, directories without
permissions, names that look like links. Nothing here recurses, follows a link or trusts a path
longer than one name.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile

_SHARED_MEMORY = "/dev/shm"  # noqa: S108 - asked whether it may be used
_OPEN_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def is_empty(directory: int) -> bool:
    """Return whether the directory open at ``directory`` has no entry."""
    with os.scandir(directory) as entries:
        return next(entries, None) is None


def wipe(directory: int) -> None:
    """Remove everything in the directory open at ``directory``, whose users are all dead.

    Goes down by name and up by ``..``, so that depth costs neither stack nor descriptors.

    Raises:
        OSError: Something could not be removed.
    """
    current = os.open(".", _OPEN_DIR, dir_fd=directory)
    try:
        pending = _remove_flat(current)
        above: list[tuple[str, list[str]]] = []
        while pending or above:
            if pending:
                name = pending.pop()
                above.append((name, pending))
                # Write to remove what is in it, search to come back up.
                os.chmod(name, 0o700, dir_fd=current)
                current = _step(current, name)
                pending = _remove_flat(current)
            else:
                name, pending = above.pop()
                current = _step(current, "..")
                os.rmdir(name, dir_fd=current)
    finally:
        os.close(current)


def _step(current: int, name: str) -> int:
    following = os.open(name, _OPEN_DIR, dir_fd=current)
    os.close(current)
    return following


def _remove_flat(directory: int) -> list[str]:
    """Remove files and empty directories; return the names of the other directories."""
    left = []
    for name in os.listdir(directory):
        if not stat.S_ISDIR(os.lstat(name, dir_fd=directory).st_mode):
            os.unlink(name, dir_fd=directory)
            continue
        try:
            os.rmdir(name, dir_fd=directory)
        except OSError:
            left.append(name)
    return left


def usage_bytes(directory: int, limit_bytes: int, limit_files: int) -> int:
    """Return the bytes allocated beneath ``directory``, at most a little over the limit.

    More than ``limit_files`` entries count as over the limit. The grader is at work meanwhile: what
    it moves away from under us is not counted this time.
    """
    total, files = 0, 0
    current = os.open(".", _OPEN_DIR, dir_fd=directory)
    above: list[tuple[tuple[int, int], list[str]]] = []
    try:
        pending, total, files = _measure(current)
        while (pending or above) and total <= limit_bytes and files <= limit_files:
            if not pending:
                identity, pending = above.pop()
                current = _step(current, "..")
                if _identity(current) != identity:  # moved while we were in it
                    break
                continue
            here = _identity(current)
            name = pending.pop()
            try:
                current = _enter(current, name)
            except OSError:
                continue
            above.append((here, pending))
            pending, size, count = _measure(current)
            total, files = total + size, files + count
    except OSError:
        pass  # removed while we were in it
    finally:
        os.close(current)
    return limit_bytes + 1 if files > limit_files else total


def _identity(directory: int) -> tuple[int, int]:
    status = os.fstat(directory)
    return status.st_dev, status.st_ino


def _enter(current: int, name: str) -> int:
    try:
        return _step(current, name)
    except PermissionError:
        # Not to be read by its own maker, who can still fill it.
        os.chmod(name, 0o700, dir_fd=current)
        return _step(current, name)


def _measure(directory: int) -> tuple[list[str], int, int]:
    """Return the subdirectories, the bytes allocated and the number of entries."""
    inside, total, files = [], 0, 0
    with os.scandir(directory) as entries:
        for entry in entries:
            files += 1
            with contextlib.suppress(OSError):
                status = entry.stat(follow_symlinks=False)
                total += status.st_blocks * 512
                if stat.S_ISDIR(status.st_mode):
                    inside.append(entry.name)
    return inside, total, files


def usual_parent(needed_bytes: int) -> str:
    """Return where scratch directories go unless told otherwise.

    In memory if there is room for ``needed_bytes``, as in namespaces: on a disk that is told of
    every freed block, removing a directory takes milliseconds, and a grader can make thousands.
    """
    usual = tempfile.gettempdir()
    with contextlib.suppress(OSError):
        in_memory = {line.split()[1] for line in _mounts() if line.split()[2] == "tmpfs"}
        for place in (usual, _SHARED_MEMORY):
            free = os.statvfs(place)
            roomy = free.f_bavail * free.f_frsize >= needed_bytes
            if _mount_point(place) in in_memory and roomy and os.access(place, os.W_OK | os.X_OK):
                return place
    return usual


def _mounts() -> list[str]:
    with open("/proc/self/mounts", encoding="utf-8", errors="replace") as mounts:  # noqa: PTH123 - not a file
        return mounts.readlines()


def _mount_point(path: str) -> str:
    path = os.path.realpath(path)
    while not os.path.ismount(path):
        path = os.path.dirname(path)  # noqa: PTH120
    return path
