"""``gradekeeper check``: every example, lint for every target, and every known probe."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

import msgspec

from graders.ports import Ports
from service.cli import failures
from service.cli.failures import CommandError
from service.cli.output import complain, note, show, show_json
from service.cli.runtime import compile_options, read_settings
from service.cli.workshop import directories, open_ports, select
from service.settings import Settings, environment
from service.workshop.check import Terms, check_subjects
from service.workshop.mutants import SHARE, check_mutants
from service.workshop.probing import probe_subjects
from service.workshop.results import Result, has_failed, junit, report
from service.workshop.watching import changes

EXIT_CODES = {
    failures.OK: "everything is as stated (there may be notes and skipped checks)",
    failures.FAILED: "something is not as stated",
    failures.UNUSABLE: "unusable arguments, settings or definitions",
    failures.UNREACHABLE: "the server could not be reached",
}

_MUTANT_TIMEOUT_S = 5.0


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
    parser.add_argument(
        "--mutants",
        action="store_true",
        help=f"also make small faults in definitions: examples must notice {SHARE:.0%}% of them",
    )
    parser.add_argument("--watch", action="store_true", help="go on, and check what changes")
    parser.add_argument("--junit", type=Path, metavar="FILE", help="also write JUnit XML")
    parser.add_argument("--json", action="store_true", help="write JSON")
    server = parser.add_argument_group("on a server")
    server.add_argument(
        "--url", help="root of a server (with or without /v1): run the examples there"
    )
    server.add_argument("--key-env", metavar="VAR", help="environment variable with the API key")


def run(arguments: argparse.Namespace) -> int:
    """Check and report, with ``--watch`` whenever something changes."""
    settings = read_settings()
    _refuse(arguments)
    if not arguments.watch:
        return _round(arguments, settings, arguments.names)
    wanted = {name.partition("@")[0] for name in arguments.names}
    everything: Iterator[set[str]] = iter([set()])
    for changed in chain(everything, changes(directories(arguments.definitions, settings))):
        names = sorted(changed & wanted if wanted else changed) or arguments.names
        try:
            _round(arguments, settings, names)
        except CommandError as error:
            complain(error.lines)
        note("watching for changes")
    raise AssertionError  # watching ends by a signal only  # pragma: no cover


def _refuse(arguments: argparse.Namespace) -> None:
    """Refuse arguments that do not go together."""
    if arguments.url is None and arguments.key_env is not None:
        raise CommandError("--key-env is only for --url")
    if arguments.url is not None and not arguments.url.startswith(("http://", "https://")):
        raise CommandError(f"--url {arguments.url}: expected http://… or https://…")
    if arguments.url is not None and arguments.watch:
        raise CommandError("--watch is for checks in this process, not on a server")


def _round(arguments: argparse.Namespace, settings: Settings, names: Sequence[str]) -> int:
    """Check ``names``, report, and return the exit code."""
    results = asyncio.run(_check(arguments, settings, names))
    if arguments.junit:
        _write(arguments.junit, junit(results))
    if arguments.json:
        show_json({"ok": not has_failed(results), "results": results})
    else:
        show(*report(results))
    return failures.FAILED if has_failed(results) else failures.OK


async def _check(
    arguments: argparse.Namespace, settings: Settings, names: Sequence[str]
) -> list[Result]:
    subjects = select(names, arguments.definitions, settings)
    if arguments.url is not None:
        from service.cli.deployed import check_deployed  # noqa: PLC0415 - brings an HTTP client

        terms = Terms(ports=Ports(), live=arguments.live, tolerance=arguments.tolerance)
        return await check_deployed(subjects, arguments.url, _key(arguments.key_env), terms)
    if arguments.mutants:  # a mutant may loop for ever
        settings = msgspec.structs.replace(settings, sandbox_timeout_s=_MUTANT_TIMEOUT_S)
    async with open_ports(settings, subjects) as ports:
        terms = Terms(ports=ports, live=arguments.live, tolerance=arguments.tolerance)
        results = await check_subjects(subjects, compile_options(settings), terms)
        if not arguments.no_probes:
            results += await probe_subjects(subjects, terms)
        if arguments.mutants:
            graded = [subject for subject in subjects if subject.grader is not None]
            options = compile_options(settings)
            results += [await check_mutants(subject, options, terms) for subject in graded]
    return results


def _key(variable: str | None) -> str | None:
    """Return the API key in an environment variable that the caller names."""
    if variable is None:
        return None
    key = environment().get(variable)
    if not key:
        raise CommandError(f"--key-env {variable}: the variable is not set")
    return key


def _write(path: Path, content: bytes) -> None:
    try:
        path.write_bytes(content)
    except OSError as error:
        raise CommandError(f"--junit {path}: {error.strerror}") from error
