"""Says what a command waits for: nobody should have to guess why nothing happens."""

from __future__ import annotations

import sys

from tqdm import tqdm

_WORTH_TELLING_S = 1.0


def announce(pause_s: float, why: str) -> None:
    """Write to standard error, above a progress bar, that ``pause_s`` seconds pass, and why."""
    if pause_s >= _WORTH_TELLING_S:
        tqdm.write(f"{why}; trying again in {pause_s:.0f} s", file=sys.stderr)
