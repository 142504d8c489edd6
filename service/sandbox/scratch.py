"""The scratch directory of a slot: emptied after every call, measured while a long one runs.

What a grader leaves behind is hostile: thousands of nested directories, directories without
permissions,
names that look like links. Nothing here recurses, follows a link or trusts a path longer than one
name.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat

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

    A path too long to open, or more than ``limit_files`` entries, counts as over the limit.
    """
    total, files = 0, 0
    pending = ["."]
    while pending:
        path = pending.pop()
        try:
            opened = os.open(path, _OPEN_DIR, dir_fd=directory)
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                return limit_bytes + 1
            continue
        try:
            with os.scandir(opened) as entries:
                for entry in entries:
                    files += 1
                    if files > limit_files:
                        return limit_bytes + 1
                    with contextlib.suppress(OSError):
                        status = entry.stat(follow_symlinks=False)
                        total += status.st_blocks * 512
                        if stat.S_ISDIR(status.st_mode):
                            pending.append(f"{path}/{entry.name}")
        finally:
            os.close(opened)
        if total > limit_bytes:
            break
    return total
