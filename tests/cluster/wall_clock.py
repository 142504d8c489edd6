"""A wall clock that jumps, for processes that a test starts: ``time.time`` with an offset.

Imported by such a process before anything else. (Debian's faketime will not do: it stands in for
the waits of threads as well, and gets CPython stuck.)
"""

from __future__ import annotations

import mmap
import os
import struct
import time
from pathlib import Path

VARIABLE = "WALL_CLOCK_FILE"
_OFFSET = struct.Struct("d")


class WallClock:
    """The offset that other processes see.

    Attributes:
        variables: Environment variables of those processes.
    """

    def __init__(self, folder: Path) -> None:
        """Begin with the truth."""
        self._file = folder / "wall-clock"
        self._file.write_bytes(_OFFSET.pack(0))
        self.variables = {VARIABLE: str(self._file)}

    def jump(self, days: float) -> None:
        """Be ``days`` off from now on."""
        with self._file.open("r+b") as file:
            file.write(_OFFSET.pack(days * 86_400))


def install() -> None:
    """Have ``time.time`` follow the file that the environment names."""
    with Path(os.environ[VARIABLE]).open("rb") as file:
        offset = mmap.mmap(file.fileno(), _OFFSET.size, access=mmap.ACCESS_READ)
    real = time.time
    time.time = lambda: real() + _OFFSET.unpack(offset)[0]


if VARIABLE in os.environ:
    install()
