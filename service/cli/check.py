"""``gradekeeper check``: every example, lint for every target, and every known probe."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

from service.cli import failures
from service.cli.failures import CommandError
from service.cli.output import show, show_json
from service.cli.runtime import compile_options, read_settings
from service.cli.workshop import open_ports, select
from service.settings import Settings
from service.workshop.check import Terms, check_subjects
from service.workshop.probing import probe_subjects
from service.workshop.results import Result, has_failed, junit, report

EXIT_CODES = {
    failures.OK: "everything is as stated (there may be notes and skipped checks)",
    failures.FAILED: "something is not as stated",
    failures.UNUSABLE: "unusable arguments, settings or definitions",
    failures.UNREACHABLE: "the server could not be reached",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("names", metavar="NAME[@VERSION]", nargs="*", help="default: all")
    parser.add_argument(
        "--definitions", type=Path, metavar="DIR", help="only those in DIR, drafts included"
    )
    parser.add_argument("--live", action="store_true", help="ask the judges, not the recordings")
    parser.add_argument(
        "--tolerance",
        type=float,
        default=0.2,
        metavar="SHARE",
        help="with --live: how far off judged rewards may be, of the span of the examples' rewards",
    )
    parser.add_argument("--no-probes", action="store_true", help="examples and lint only")
    parser.add_argument("--junit", type=Path, metavar="FILE", help="also write JUnit XML")
    parser.add_argument("--json", action="store_true", help="write JSON")


def run(arguments: argparse.Namespace) -> int:
    """Check and report."""
    settings = read_settings()
    results = asyncio.run(_check(arguments, settings))
    if arguments.junit:
        _write(arguments.junit, junit(results))
    if arguments.json:
        show_json({"ok": not has_failed(results), "results": results})
    else:
        show(*report(results))
    return failures.FAILED if has_failed(results) else failures.OK


async def _check(arguments: argparse.Namespace, settings: Settings) -> list[Result]:
    subjects = select(arguments.names, arguments.definitions, settings)
    async with open_ports(settings, subjects) as ports:
        terms = Terms(ports=ports, live=arguments.live, tolerance=arguments.tolerance)
        results = await check_subjects(subjects, compile_options(settings), terms)
        if not arguments.no_probes:
            results += await probe_subjects(subjects, terms)
    return results


def _write(path: Path, content: bytes) -> None:
    try:
        path.write_bytes(content)
    except OSError as error:
        raise CommandError(f"--junit {path}: {error.strerror}") from error
