"""``gradekeeper validate``: everything that is wrong or doubtful about grader files, at once."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

from graders import importing
from graders.building import Options
from graders.errors import DefinitionError, Finding
from graders.export import TARGETS, Target
from graders.lint import lint
from graders.wording import placed
from service.cli import failures
from service.cli.output import show, show_json
from service.cli.runtime import compile_options, read_document, read_routes, read_settings
from service.shutdowns import Shutdowns

EXIT_CODES = {
    failures.OK: "no errors (there may be warnings)",
    failures.FAILED: "errors were found",
    failures.UNUSABLE: "a file cannot be read, or unusable settings",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("files", metavar="FILE", nargs="+", type=Path, help="grader JSON")
    parser.add_argument(
        "--target", choices=TARGETS, help="also warn about what this target cannot carry"
    )
    parser.add_argument("--json", action="store_true", help="write JSON")


def run(arguments: argparse.Namespace) -> int:
    """Write every finding of every file."""
    settings = read_settings()
    options, shutdowns = compile_options(settings), Shutdowns(read_routes(settings))
    found = {
        path: _findings(path, options, arguments.target, shutdowns) for path in arguments.files
    }
    counts = Counter(finding.severity for findings in found.values() for finding in findings)
    if arguments.json:
        show_json([_report(path, findings) for path, findings in found.items()])
    else:
        for path, findings in found.items():
            show(*[_line(path, finding) for finding in findings] or [f"{path}: ok"])
        show(f"{len(found)} files, {counts['error']} errors, {counts['warning']} warnings")
    return failures.FAILED if counts["error"] else failures.OK


def _findings(
    path: Path, options: Options, target: Target | None, shutdowns: Shutdowns
) -> list[Finding]:
    try:
        document = read_document(path)
    except DefinitionError as error:
        return list(error.findings)
    reading = importing.read(document)
    ends = shutdowns.findings(reading.grader, reading.pointers) if reading.grader else []
    return [*lint(document, options, target=target), *ends]


def _line(path: Path, finding: Finding) -> str:
    return f"{placed(path, finding.pointer)}: {finding.severity}: {finding.message}"


def _report(path: Path, findings: list[Finding]) -> dict[str, object]:
    described = [
        {"pointer": f.pointer, "severity": f.severity, "code": f.code, "message": f.message}
        for f in findings
    ]
    ok = all(finding.severity != "error" for finding in findings)
    return {"file": str(path), "ok": ok, "findings": described}
