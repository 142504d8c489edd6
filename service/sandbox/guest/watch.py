"""What a running leaf uses that the kernel has no limit for, as its zygote sees it.

The kernel counts memory and open files for each process, but neither processes, threads and memory
of a family, nor the space of files that have lost their names. Reading the latter takes a leaf that
is dumpable, which Landlock keeps from being read by any other leaf (`lockdown.Lockdown.enter`).
"""

from __future__ import annotations

import os
import stat

_BLOCK = 512
_PAGE = os.sysconf("SC_PAGE_SIZE")
_GROUP, _THREADS, _RESIDENT = 2, 17, 21  # of /proc/PID/stat, after the name
# How large a file without name is, that is mapped but not open, nobody tells.
_MAPPED_ONLY_SHARE = 4


class Member:
    """One process of a leaf's family.

    Attributes:
        pid: Its number.
        threads: How many it has.
        resident_bytes: Its memory, what it shares included.
    """

    def __init__(self, pid: int, fields: list[bytes]) -> None:
        """Take what is needed of ``/proc/PID/stat``."""
        self.pid = pid
        self.threads = int(fields[_THREADS])
        self.resident_bytes = int(fields[_RESIDENT]) * _PAGE


def alone(pid: int) -> list[Member]:
    """Return the leaf ``pid``, which has no children; nothing when it is gone."""
    fields = _status(pid)
    return [Member(pid, fields)] if fields else []


def family(leader: int) -> list[Member]:
    """Return every process in the group of ``leader``, zombies included."""
    members = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            fields = _status(int(name))
            if fields and int(fields[_GROUP]) == leader:
                members.append(Member(int(name), fields))
    return members


def _status(pid: int) -> list[bytes]:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()
    except OSError:
        return []


def memory_bytes(members: list[Member], enough: int) -> int:
    """Return the memory of ``members``, each shared page counted by its share.

    Args:
        members: The family.
        enough: The exact number does not matter as long as it is not above this.
    """
    resident = sum(member.resident_bytes for member in members)
    return resident if resident <= enough else sum(map(_proportional_bytes, members))


def _proportional_bytes(member: Member) -> int:
    try:
        with open(f"/proc/{member.pid}/smaps_rollup", "rb") as file:
            for line in file:
                if line.startswith(b"Pss:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return member.resident_bytes


def held_bytes(members: list[Member], scratch: str, limit_bytes: int) -> int:
    """Return the space that ``members`` keep in files without names.

    Args:
        members: The family.
        scratch: Its directory.
        limit_bytes: Of the scratch: a file that is mapped and not open counts as a quarter of it.
    """
    sizes: dict[int, int] = {}
    for member in members:
        try:
            _add_open(member.pid, sizes)
            _add_mapped(member.pid, sizes, scratch.encode(), limit_bytes // _MAPPED_ONLY_SHARE)
        except OSError:  # it has ended, or is another user's program
            continue
    return sum(sizes.values())


def _add_open(pid: int, sizes: dict[int, int]) -> None:
    for fd in os.listdir(f"/proc/{pid}/fd"):
        try:
            status = os.stat(f"/proc/{pid}/fd/{fd}")
        except OSError:
            continue
        if not status.st_nlink and stat.S_ISREG(status.st_mode):
            sizes[status.st_ino] = status.st_blocks * _BLOCK


def _add_mapped(pid: int, sizes: dict[int, int], scratch: bytes, size: int) -> None:
    with open(f"/proc/{pid}/maps", "rb") as maps:
        for line in maps:
            if line.endswith(b" (deleted)\n"):
                fields = line.split(maxsplit=5)
                if fields[5].startswith(scratch + b"/"):
                    sizes.setdefault(int(fields[4]), size)
