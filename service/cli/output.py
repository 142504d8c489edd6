"""Writes for people and for pipes: results on standard output, all else on standard error."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterable
from typing import Any

import msgspec

_LONGEST = 240


def show(*lines: str) -> None:
    """Write ``lines`` to standard output."""
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.flush()


def show_json(value: Any) -> None:  # noqa: ANN401 - anything msgspec encodes
    """Write ``value`` to standard output as indented JSON."""
    show(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def note(*lines: str) -> None:
    """Write ``lines`` to standard error."""
    sys.stderr.write("".join(f"{line}\n" for line in lines))
    sys.stderr.flush()


def complain(lines: Iterable[str]) -> None:
    """Write what went wrong to standard error."""
    note(*(f"{'' if index else 'gradekeeper: '}{line}" for index, line in enumerate(lines)))


def one_line(text: str) -> str:
    """Return what somebody else wrote so that it fits a line and cannot steer the terminal."""
    printable = "".join(char if char.isprintable() else " " for char in text)
    return textwrap.shorten(printable, _LONGEST, placeholder=" …")


def table(rows: Iterable[tuple[str, ...]]) -> list[str]:
    """Return ``rows`` as lines with aligned columns; the last column is as long as it is."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
