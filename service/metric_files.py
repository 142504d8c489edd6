"""Room for the files that workers share their metrics in, taken before anything is written to them.

prometheus-client makes such a file without taking disk for it and writes to it as to memory. Where
the disk is full by then, the kernel ends the process with SIGBUS, and nothing can catch that.

macOS cannot take room ahead; there nothing changes.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

# prometheus-client doubles a file that is too small, without taking room; these will do for
# thousands of series.
COUNTER_BYTES = 1 << 20
_OTHER_BYTES = 1 << 16
_GAUGES = (
    *("all", "liveall", "max", "livemax", "min", "livemin", "sum", "livesum"),
    *("mostrecent", "livemostrecent"),
)


def reserve(directory: str) -> None:
    """Make this process's files in ``directory``, each with all of its room.

    Raises:
        OSError: There is no room.
    """
    sizes = {"counter": COUNTER_BYTES, "histogram": COUNTER_BYTES, "summary": _OTHER_BYTES}
    sizes |= {f"gauge_{mode}": _OTHER_BYTES for mode in _GAUGES}
    if sys.platform == "darwin":
        return
    for kind, size in sizes.items():
        path = Path(directory) / f"{kind}_{os.getpid()}.db"
        with path.open("ab") as file:
            os.posix_fallocate(file.fileno(), 0, size)
