"""``gradekeeper list``: which graders there are."""

from __future__ import annotations

import argparse
from typing import Any

from graders.registry import Registry
from service.cli import failures
from service.cli.output import note, show, show_json, table
from service.cli.runtime import load_registry, read_settings

EXIT_CODES = {failures.OK: "listed", failures.UNUSABLE: "unusable settings or definitions"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--json", action="store_true", help="write JSON")


def run(arguments: argparse.Namespace) -> int:
    """Write one line, or one JSON object, a grader."""
    registry = load_registry(read_settings())
    graders = [_described(registry, name) for name in registry.names()]
    if arguments.json:
        show_json({"graders": graders})
        return failures.OK
    if not graders:
        note("no graders; GRADEKEEPER_DEFINITIONS names directories of them")
        return failures.OK
    heading = ("NAME", "TYPE", "VERSIONS", "LABELS", "DESCRIPTION")
    show(*table([heading, *map(_row, graders)]))
    return failures.OK


def _described(registry: Registry, name: str) -> dict[str, Any]:
    versions = registry.versions(name)
    return {
        "name": name,
        "description": versions[-1].description,
        "type": versions[-1].grader.type,
        "latest": versions[-1].version,
        "labels": registry.labels(name),
        "versions": [
            {"version": v.version, "type": v.grader.type, "digest": v.digest} for v in versions
        ],
    }


def _row(grader: dict[str, Any]) -> tuple[str, ...]:
    latest = grader["latest"]
    labels = " ".join(f"{label}={version}" for label, version in sorted(grader["labels"].items()))
    versions = f"1-{latest}" if latest > 1 else "1"
    return grader["name"], grader["type"], versions, labels or "-", grader["description"]
