"""``gradekeeper release``: writes a draft as the next immutable version of its grader.

A folder without a draft holds versions that were written by hand; those are pinned as they are.
"""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

from service.cli import failures
from service.cli.failures import CommandError
from service.cli.output import note, show
from service.cli.runtime import compile_options, read_settings
from service.cli.workshop import open_ports
from service.settings import Settings
from service.workshop.check import Terms, check_subjects
from service.workshop.library import Subject, draft_of
from service.workshop.release import Released, ReleaseError, pin, release
from service.workshop.results import Result, has_failed, report

EXIT_CODES = {
    failures.OK: "released, or released before with the same content",
    failures.FAILED: "an example or lint fails; nothing was written",
    failures.UNUSABLE: "unusable arguments, settings or files",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "folder",
        metavar="DIR",
        type=Path,
        help="folder with src/grader.json and examples.jsonl, or with 1.json … to pin as they are",
    )
    parser.add_argument(
        "--definitions",
        type=Path,
        metavar="DIR",
        help="directory of definitions to release into; default: where the folder is",
    )


def run(arguments: argparse.Namespace) -> int:
    """Check the draft, then write it."""
    settings = read_settings()
    folder: Path = arguments.folder.resolve()
    draft = draft_of(folder, compile_options(settings))
    if draft is None:
        return _pin(folder, settings)
    results = asyncio.run(_checked(draft, settings))
    if has_failed(results):
        note(*report(results), "nothing was released")
        return failures.FAILED
    try:
        released = release(draft, arguments.definitions or folder.parent)
    except ReleaseError as error:
        raise CommandError(str(error)) from error
    except OSError as error:
        raise CommandError(f"{error.filename}: {error.strerror}") from error
    _tell(released)
    return failures.OK


def _pin(folder: Path, settings: Settings) -> int:
    """Pin the versions in ``folder`` if each can be served."""
    if not (folder / "1.json").is_file():
        raise CommandError(f"{folder}: no src/grader.json to release and no 1.json to pin")
    try:
        pinned = pin(folder, compile_options(settings))
    except ReleaseError as error:
        raise CommandError(str(error)) from error
    except OSError as error:
        raise CommandError(f"{error.filename}: {error.strerror}") from error
    show(*(f"{folder.name}@{version} {digest}" for version, digest in pinned.items()))
    return failures.OK


async def _checked(draft: Subject, settings: Settings) -> list[Result]:
    async with open_ports(settings, [draft]) as ports:
        return await check_subjects([draft], compile_options(settings), Terms(ports=ports))


def _tell(released: Released) -> None:
    identity = f"{released.grader}@{released.version}"
    show(f"{identity} {released.digest}", str(released.file))
    if not released.is_new:
        note(f"the same content was released as {identity} before")
