"""What a suite returns, and the table of it."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec

_HEADINGS = ("what", "measured", "range", "bar", "verdict")


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One figure.

    Attributes:
        what: What was measured, and against what.
        samples: One value a round, at least one.
        unit: Of the samples; empty for a ratio.
        bar: What to reach; None for a figure that only explains others.
        good: Side of the bar that is good.
    """

    what: str
    samples: Sequence[float]
    unit: str = ""
    bar: float | None = None
    good: Literal["above", "below"] = "above"

    @property
    def measured(self) -> float:
        """The median of the samples."""
        return statistics.median(self.samples)

    @property
    def missed(self) -> bool:
        """Whether there is a bar and the median does not reach it."""
        if self.bar is None:
            return False
        return self.measured < self.bar if self.good == "above" else self.measured > self.bar


def at_least(bar: float, what: str, samples: Sequence[float], unit: str = "") -> Row:
    """Return a row whose median must reach ``bar``."""
    return Row(what=what, samples=samples, unit=unit, bar=bar)


def at_most(bar: float, what: str, samples: Sequence[float], unit: str = "") -> Row:
    """Return a row whose median must stay within ``bar``."""
    return Row(what=what, samples=samples, unit=unit, bar=bar, good="below")


def figure(what: str, samples: Sequence[float], unit: str = "") -> Row:
    """Return a row without a bar."""
    return Row(what=what, samples=samples, unit=unit)


def ratios(numerators: Iterable[float], denominators: Iterable[float]) -> list[float]:
    """Return the ratio of each round."""
    return [n / d for n, d in zip(numerators, denominators, strict=True)]


def table(rows: Sequence[Row]) -> str:
    """Return ``rows`` as aligned text."""
    lines = [_HEADINGS, *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_HEADINGS))]
    return "\n".join(
        f"{line[0]:<{widths[0]}}  {line[1]:>{widths[1]}}  {line[2]:>{widths[2]}}  "
        f"{line[3]:>{widths[3]}}  {line[4]}".rstrip()
        for line in lines
    )


def _cells(row: Row) -> tuple[str, ...]:
    low, high = min(row.samples), max(row.samples)
    spread = f"{_number(low)}–{_number(high)}" if len(row.samples) > 1 else ""
    measured = f"{_number(row.measured)} {row.unit}".rstrip()
    if row.bar is None:
        return row.what, measured, spread, "", ""
    sign = "≥" if row.good == "above" else "≤"
    bar = f"{sign} {_number(row.bar)} {row.unit}".rstrip()
    return row.what, measured, spread, bar, "MISSED" if row.missed else "met"


def _number(value: float) -> str:
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.3g}"
