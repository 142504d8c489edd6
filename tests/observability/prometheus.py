"""PromQL as far as our rules and dashboards use it: which series and labels an expression names."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import pytest

from service.metrics import Metrics

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy" / "prometheus" / "rules.yaml"
CATALOGUE = {series.name: series for series in Metrics().catalogue}
# What Prometheus adds to every series it scrapes.
SCRAPED_LABELS = {"instance", "job", "namespace", "pod"}

_STRING = re.compile(r"'[^']*'|\"[^\"]*\"")
_SELECTOR = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)\s*(?:\{([^{}]*)\})?")
_SERIES = re.compile(r"gradekeeper_[a-z0-9_]+\Z|[a-z0-9_]+(?::[a-z0-9_]+)+\Z|up\Z")
_GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^()]*)\)")
_MATCHER = re.compile(r"([a-zA-Z_][a-zA-Z0-9_]*)\s*(?:=~|!~|!=|=)")


def promtool() -> str:
    """Return the path of promtool, which ``make promtool`` gets."""
    path = shutil.which("promtool") or shutil.which("promtool", path=str(Path(sys.prefix) / "bin"))
    if path is None:
        pytest.skip("promtool is not installed: make promtool")
    return path


def selectors(expression: str) -> list[tuple[str, set[str]]]:
    """Return every series that ``expression`` names, with the labels it selects by."""
    bare = _STRING.sub('""', expression)
    return [
        (name, set(_MATCHER.findall(matchers or "")))
        for name, matchers in _SELECTOR.findall(bare)
        if _SERIES.match(name)
    ]


def groupings(expression: str) -> set[str]:
    """Return the labels by which ``expression`` groups or joins."""
    bare = _STRING.sub('""', expression)
    return {
        label.strip()
        for labels in _GROUPING.findall(bare)
        for label in labels.split(",")
        if label.strip()
    }


def problems(expression: str, recorded: dict[str, str]) -> list[str]:
    """Return what ``expression`` names that there is not.

    Args:
        expression: PromQL.
        recorded: Expressions of the recording rules, by their names.
    """
    found: list[str] = []
    known = set(SCRAPED_LABELS)
    for name, labels in selectors(expression):
        if name == "up":
            own: set[str] = set()
        elif name in recorded:
            own = groupings(recorded[name]) or _labels_behind(recorded[name], recorded)
        else:
            declared = _declared(name)
            if declared is None:
                found.append(f"{name} is not in the catalogue")
                continue
            own = declared
        known |= own
        found += [f"{name} has no label {label}" for label in sorted(labels - own - SCRAPED_LABELS)]
    found += [f"no series has the label {label}" for label in sorted(groupings(expression) - known)]
    return found


def _declared(name: str) -> set[str] | None:
    """Return the labels of a series as it is scraped; None when there is none of that name."""
    series = CATALOGUE.get(name)
    if series is not None:
        return None if series.type == "histogram" else set(series.labels)
    for suffix, extra in (("_bucket", {"le"}), ("_count", set[str]()), ("_sum", set[str]())):
        series = CATALOGUE.get(name.removesuffix(suffix))
        if name.endswith(suffix) and series is not None and series.type == "histogram":
            return {*series.labels, *extra}
    return None


def _labels_behind(expression: str, recorded: dict[str, str]) -> set[str]:
    """Return the labels that a rule made of other rules has."""
    return {
        label
        for name, _ in selectors(expression)
        if name in recorded
        for label in groupings(recorded[name]) or _labels_behind(recorded[name], recorded)
    }
