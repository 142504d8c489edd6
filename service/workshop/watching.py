"""Says which definitions changed, by looking at their files now and then."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

_PAUSE_S = 0.4

_State = dict[str, frozenset[tuple[str, int, int]]]


def changes(
    directories: Sequence[Path], *, sleep: Callable[[float], None] = time.sleep
) -> Iterator[set[str]]:
    """Yield the names of definitions that changed, each time some did; never ends.

    Args:
        directories: Directories of definitions.
        sleep: How to wait between two looks.
    """
    before = _state(directories)
    while True:
        sleep(_PAUSE_S)
        now = _state(directories)
        names = before.keys() | now.keys()
        changed = {name for name in names if before.get(name) != now.get(name)}
        before = now
        if changed:
            yield changed


def _state(directories: Sequence[Path]) -> _State:
    found: dict[str, set[tuple[str, int, int]]] = {}
    for directory in directories:
        for file in directory.glob("*/**/*"):
            name = file.relative_to(directory).parts[0]
            try:
                status = file.stat()
            except FileNotFoundError:  # gone since the look into its folder
                continue
            mark = (str(file), status.st_mtime_ns, status.st_size)
            found.setdefault(name, set()).add(mark)
    return {name: frozenset(marks) for name, marks in found.items()}
