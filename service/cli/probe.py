"""``gradekeeper probe``: attacks a grader the way a policy under reinforcement learning will."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

from service.cli import failures
from service.cli.failures import CommandError
from service.cli.output import note, show, show_json
from service.cli.runtime import read_settings
from service.cli.workshop import open_ports, select
from service.settings import Settings
from service.workshop.check import Terms
from service.workshop.probe_files import ProbeLine, write_lines
from service.workshop.probing import probe
from service.workshop.results import Result, has_failed, report

EXIT_CODES = {
    failures.OK: "no attempt earns more than stated, known weaknesses apart",
    failures.FAILED: "an attempt earns more than stated, or breaks the grader",
    failures.UNUSABLE: "unusable arguments, settings or definitions",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("grader", metavar="NAME[@VERSION]")
    parser.add_argument(
        "--above",
        type=float,
        metavar="REWARD",
        help="what an attempt may earn; default: as probes.json states, else the middle of the "
        "examples' rewards",
    )
    parser.add_argument("--definitions", type=Path, metavar="DIR", help="only those in DIR")
    parser.add_argument("--live", action="store_true", help="ask the judges, not the recordings")
    parser.add_argument(
        "--record", action="store_true", help="with --live: write the replies to probes.jsonl"
    )
    parser.add_argument("--json", action="store_true", help="write JSON")


def run(arguments: argparse.Namespace) -> int:
    """Attack and report."""
    if arguments.record and not arguments.live:
        raise CommandError("--record is only for --live")
    settings = read_settings()
    results = asyncio.run(_probe(arguments, settings))
    if arguments.json:
        show_json({"ok": not has_failed(results), "results": results})
    else:
        show(*report(results))
    return failures.FAILED if has_failed(results) else failures.OK


async def _probe(arguments: argparse.Namespace, settings: Settings) -> list[Result]:
    """Attack the last version, or the draft that may become the next."""
    subject = select([arguments.grader], arguments.definitions, settings)[-1]
    record: dict[str, ProbeLine] = {}
    async with open_ports(settings, [subject]) as ports:
        terms = Terms(ports=ports, live=arguments.live)
        results = await probe(subject, terms, above=arguments.above, record=record)
    if arguments.record:
        note(f"{len(record)} attempts recorded in {write_lines(subject.folder, record)}")
    return results
