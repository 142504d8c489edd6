"""``gradekeeper new``: starts a definition that `check` passes at once."""

from __future__ import annotations

import argparse
from pathlib import Path

from service.cli import failures
from service.cli.failures import CommandError
from service.cli.output import note, show
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
        default=Path(),
        metavar="DIR",
        help="directory of definitions to write in; default: the current one",
    )


def run(arguments: argparse.Namespace) -> int:
    """Write the files and list them."""
    try:
        files = scaffold(arguments.name, arguments.type, arguments.definitions)
    except ScaffoldError as error:
        raise CommandError(str(error)) from error
    except OSError as error:
        raise CommandError(f"{error.filename}: {error.strerror}") from error
    show(*(str(file) for file in files))
    folder = arguments.definitions / arguments.name
    note(
        f"next: gradekeeper check {arguments.name} --definitions {arguments.definitions}",
        f"then: gradekeeper release {folder}",
    )
    return failures.OK
