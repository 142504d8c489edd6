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
_KEPT_OPEN = 32  # levels of a walk
_RETRIES = 64


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
                _open_up(current, name)  # write to remove what is in it, search to come back up
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


def usage(directory: int, limit_bytes: int, limit_files: int) -> tuple[int, bool]:
    """Return the bytes allocated beneath ``directory``, and whether all of it was seen.

    At most a little over the limit; more than ``limit_files`` entries count as over it. The grader
    is at work meanwhile: what it moves is looked for again, and not for ever.
    """
    walk = _Walk(directory)
    try:
        while walk.levels and walk.total <= limit_bytes and walk.files <= limit_files:
            walk.step()
    finally:
        walk.close()
    return limit_bytes + 1 if walk.files > limit_files else walk.total, walk.whole


class _Level:
    """A directory on the way down; its descriptor is -1 while a deep walk does without it."""

    def __init__(self, fd: int, identity: tuple[int, int], pending: list[str]) -> None:
        self.fd, self.identity, self.pending = fd, identity, pending


class _Walk:
    """A measurement that a grader may try to lead astray by moving directories.

    The upper levels stay open, so that nothing that happens to their names matters; below them the
    way back is ``..``, checked.
    """

    def __init__(self, directory: int) -> None:
        self.total, self.files, self.whole = 0, 0, True
        self.levels: list[_Level] = []
        self._retries = _RETRIES
        self._seen: set[tuple[int, int]] = set()
        self._descend(os.open(".", _OPEN_DIR, dir_fd=directory))

    def step(self) -> None:
        level = self.levels[-1]
        if not level.pending:
            self._ascend()
            return
        try:
            fd = _enter(level.fd, level.pending.pop())
        except OSError:
            self._look_again(level)
            return
        if _identity(fd) in self._seen:
            os.close(fd)
            return
        if len(self.levels) > _KEPT_OPEN:
            os.close(level.fd)
            level.fd = -1
        self._descend(fd)

    def _descend(self, fd: int) -> None:
        identity = _identity(fd)
        self._seen.add(identity)
        level = _Level(fd, identity, [])
        self.levels.append(level)
        try:
            level.pending, size, count = _measure(fd)
        except OSError:
            self.whole = False
            return
        self.total, self.files = self.total + size, self.files + count

    def _ascend(self) -> None:
        left = self.levels.pop()
        if self.levels and self.levels[-1].fd < 0:
            with contextlib.suppress(OSError):
                above = os.open("..", _OPEN_DIR, dir_fd=left.fd)
                if _identity(above) == self.levels[-1].identity:
                    self.levels[-1].fd = above
                else:
                    os.close(above)
        os.close(left.fd)
        while self.levels and self.levels[-1].fd < 0:  # moved while we were in it
            self.whole = False
            self.levels.pop()

    def _look_again(self, level: _Level) -> None:
        """Take the names of ``level`` afresh after one of them did not lead anywhere."""
        if not self._retries:
            self.whole = False
            return
        self._retries -= 1
        device = level.identity[0]
        with contextlib.suppress(OSError), os.scandir(level.fd) as entries:
            level.pending = [
                entry.name
                for entry in entries
                if entry.is_dir(follow_symlinks=False) and (device, entry.inode()) not in self._seen
            ]

    def close(self) -> None:
        for level in self.levels:
            if level.fd >= 0:
                os.close(level.fd)


def _identity(directory: int) -> tuple[int, int]:
    status = os.fstat(directory)
    return status.st_dev, status.st_ino


def _enter(current: int, name: str) -> int:
    try:
        return os.open(name, _OPEN_DIR, dir_fd=current)
    except PermissionError:
        # Not to be read by its own maker, who can still fill it.
        _open_up(current, name)
        return os.open(name, _OPEN_DIR, dir_fd=current)


def _open_up(current: int, name: str) -> None:
    """Give ourselves all rights to the directory ``name``, and to nothing else.

    By descriptor: a name may have become a link to a file of ours in the meantime.
    """
    fd = os.open(name, os.O_PATH | _OPEN_DIR, dir_fd=current)
    try:
        os.chmod(f"/proc/self/fd/{fd}", 0o700)  # noqa: PTH101 - fchmod refuses an O_PATH descriptor
    finally:
        os.close(fd)


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
