"""``gradekeeper settings``: what this environment asks for."""

from __future__ import annotations

import argparse

from service.cli import failures
from service.cli.output import show
from service.cli.runtime import read_settings
from service.configuration import document
from service.settings import PREFIX

EXIT_CODES = {failures.OK: "shown", failures.UNUSABLE: "a variable is unknown or unusable"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "--markdown", action="store_true", help="write CONFIGURATION.md: every setting explained"
    )


def run(arguments: argparse.Namespace) -> int:
    """Write one line a setting, secrets masked, or the reference."""
    if arguments.markdown:
        show(document().rstrip("\n"))
        return failures.OK
    for name, value in read_settings().masked().items():
        shown = str(value).lower() if isinstance(value, bool) else value
        show(f"{PREFIX}{name.upper()}={shown}")
    return failures.OK
