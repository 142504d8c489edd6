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
from itertools import count

_OPEN_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def is_empty(directory: int) -> bool:
    """Return whether the directory open at ``directory`` has no entry."""
    with os.scandir(directory) as entries:
        return next(entries, None) is None


def wipe(directory: int) -> None:
    """Remove everything in the directory open at ``directory``.

    Directories inside directories are first moved up to the top, so that depth never matters.

    Raises:
        OSError: Something could not be removed.
    """
    names = count()
    pending = os.listdir(directory)
    while pending:
        for name in pending:
            _remove(directory, name, names)
        pending = os.listdir(directory)


def _remove(top: int, name: str, names: count[int]) -> None:
    if not stat.S_ISDIR(os.lstat(name, dir_fd=top).st_mode):
        os.unlink(name, dir_fd=top)
        return
    with contextlib.suppress(OSError):
        os.rmdir(name, dir_fd=top)
        return
    os.chmod(name, 0o700, dir_fd=top)
    inner = os.open(name, _OPEN_DIR, dir_fd=top)
    try:
        for child in os.listdir(inner):  # noqa: PTH208 - a descriptor, not a path
            if not stat.S_ISDIR(os.lstat(child, dir_fd=inner).st_mode):
                os.unlink(child, dir_fd=inner)
                continue
            try:
                os.rmdir(child, dir_fd=inner)
            except OSError:
                # Moving a directory rewrites its "..", which needs its own write permission.
                os.chmod(child, 0o700, dir_fd=inner)
                os.rename(
                    child,
                    f".wipe-{next(names)}-{os.urandom(6).hex()}",
                    src_dir_fd=inner,
                    dst_dir_fd=top,
                )
    finally:
        os.close(inner)
    os.rmdir(name, dir_fd=top)


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
