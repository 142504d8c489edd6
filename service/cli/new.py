"""``gradekeeper new``: starts a definition that `check` passes at once."""

from __future__ import annotations

import argparse
from pathlib import Path

from service.cli import failures
from service.cli.failures import CommandError
from service.cli.output import note, show
from service.cli.runtime import read_settings
from service.settings import Settings
from service.workshop.scaffold import KINDS, ScaffoldError, scaffold

EXIT_CODES = {
    failures.OK: "written",
    failures.UNUSABLE: "unusable name, or something of that name is there",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("name", metavar="NAME", help="lower-case letters, digits, '-', '_', '.'")
    parser.add_argument("--type", choices=KINDS, required=True, help="grader type")
    parser.add_argument(
        "--definitions",
        type=Path,
        metavar="DIR",
        help="directory of definitions to write in; default: the one that "
        "GRADEKEEPER_DEFINITIONS names, or the current one where it names none or several",
    )


def run(arguments: argparse.Namespace) -> int:
    """Write the files and list them."""
    directory = arguments.definitions or _named(read_settings())
    try:
        files = scaffold(arguments.name, arguments.type, directory)
    except ScaffoldError as error:
        raise CommandError(str(error)) from error
    except OSError as error:
        raise CommandError(f"{error.filename}: {error.strerror}") from error
    show(*(str(file) for file in files))
    folder = directory / arguments.name
    note(
        f"next: gradekeeper check {arguments.name} --definitions {directory}",
        f"then: gradekeeper release {folder}",
    )
    return failures.OK


def _named(settings: Settings) -> Path:
    named = [part for part in settings.definitions.split(":") if part]
    return Path(named[0]) if len(named) == 1 else Path()
