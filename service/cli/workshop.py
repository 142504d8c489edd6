"""What the commands of the workshop share: which definitions, and the ports they ask."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import msgspec

from graders.engine import CompiledGrader
from graders.errors import GraderError
from graders.ports import Ports
from graders.schema import Multi, Python
from service.cli.failures import CommandError
from service.cli.runtime import compile_options, explained
from service.settings import Settings
from service.workshop.library import Subject, find_subjects


def directories(definitions: Path | None, settings: Settings) -> list[Path]:
    """Return where definitions are: in ``definitions``, or where the settings say."""
    from service.adapters import definition_directories  # noqa: PLC0415 - brings clients along

    return [definitions] if definitions else definition_directories(settings)


def select(names: Iterable[str], definitions: Path | None, settings: Settings) -> list[Subject]:
    """Return what ``names`` select.

    Raises:
        CommandError: Definitions are broken, or a name is unknown.
    """
    with explained():
        return find_subjects(directories(definitions, settings), names, compile_options(settings))


@contextlib.asynccontextmanager
async def open_ports(settings: Settings, subjects: Iterable[Subject]) -> AsyncIterator[Ports]:
    """Yield what ``subjects`` ask outside of this process; the sandbox starts only for Python.

    Raises:
        CommandError: The settings name something that cannot be used.
    """
    graders = [subject.grader for subject in subjects if subject.grader is not None]
    if all(grader.is_pure for grader in graders):
        yield Ports()
        return
    from service import adapters  # noqa: PLC0415 - as above

    if not any(_has_python(grader) for grader in graders):
        settings = msgspec.structs.replace(settings, sandbox="off")
    async with contextlib.AsyncExitStack() as stack:
        try:
            built = adapters.build_adapters(settings)
            await stack.enter_async_context(adapters.running(built))
        except (adapters.AdapterError, GraderError) as error:
            raise CommandError(str(error)) from error
        yield built.ports


def _has_python(grader: CompiledGrader) -> bool:
    definition = grader.grader
    parts = definition.graders.values() if isinstance(definition, Multi) else [definition]
    return any(isinstance(part, Python) for part in parts)
