"""What can be checked: every released version of every grader, and drafts in ``src``.

A draft is what ``src`` assembles to when that is not released yet. Drafts with faults are kept with
what is wrong, so that one of them does not hide the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import cast

import msgspec

from graders.building import Options
from graders.engine import CompiledGrader, compile_grader
from graders.errors import DefinitionError, UnknownGraderError
from graders.registry import DRAFT, EXAMPLES, NAME, Definition, load
from graders.sample import JsonValue
from service.workshop.assembly import AssemblyError, assemble


class Subject(msgspec.Struct, frozen=True, kw_only=True):
    """A version or a draft.

    Attributes:
        name: Name of the grader.
        version: None for a draft.
        folder: Where its files are.
        document: Grader JSON; None when a draft cannot be assembled.
        grader: The same compiled; None when it cannot be.
        problems: Why there is no ``grader``.
    """

    name: str
    version: int | None
    folder: Path
    document: JsonValue
    grader: CompiledGrader | None
    problems: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """``name@version``, or the name marked as a draft."""
        return f"{self.name} (draft)" if self.version is None else f"{self.name}@{self.version}"

    @property
    def examples_file(self) -> Path:
        """Where the examples are."""
        return self.folder / EXAMPLES


def subject_of(definition: Definition) -> Subject:
    """Return a released version."""
    return Subject(
        name=definition.name,
        version=definition.version,
        folder=cast("Path", definition.folder),  # which directories' definitions have
        document=msgspec.json.decode(definition.document),
        grader=definition.grader,
    )


def draft_of(folder: Path, options: Options) -> Subject | None:
    """Return what ``src`` of ``folder`` assembles to, or None when there is no ``src``."""
    if not (folder / DRAFT).is_file():
        return None
    document: JsonValue = None
    grader: CompiledGrader | None = None
    problems: tuple[str, ...] = ()
    try:
        document = assemble((folder / DRAFT).parent)
        grader = compile_grader(document, options, purpose="store")
    except AssemblyError as error:
        problems = (str(error),)
    except DefinitionError as error:
        found = [finding for finding in error.findings if finding.severity == "error"]
        problems = tuple(f"{folder / DRAFT}#{one.pointer}: {one.message}" for one in found)
    return Subject(
        name=folder.name,
        version=None,
        folder=folder,
        document=document,
        grader=grader,
        problems=problems,
    )


def find_subjects(
    directories: Sequence[Path], names: Iterable[str], options: Options
) -> list[Subject]:
    """Return what ``names`` select: all versions and the draft, one ``NAME@VERSION``, or all.

    Raises:
        BrokenDefinitionsError: Released versions that cannot be served.
        UnknownGraderError, UnknownVersionError: A name selects nothing.
    """
    registry = load(directories, options)
    folders = _folders(directories)
    found: list[Subject] = []
    for selected in list(names) or sorted({*registry.names(), *folders}):
        name, _, version = selected.partition("@")
        if version:
            found.append(subject_of(registry.get(name, version)))
            continue
        released = registry.versions(name) if name in registry.names() else []
        subjects = [subject_of(definition) for definition in released]
        draft = draft_of(folders[name], options) if name in folders else None
        if draft is not None and not _is_released(draft, released):
            subjects.append(draft)
        if not subjects:
            raise UnknownGraderError(name, {**dict.fromkeys(registry.names()), **folders})
        found += subjects
    return found


def _folders(directories: Iterable[Path]) -> dict[str, Path]:
    """Return name → folder of everything that has a draft."""
    return {
        file.parents[1].name: file.parents[1]
        for directory in directories
        for file in sorted(directory.glob(f"*/{DRAFT}"))
        if NAME.match(file.parents[1].name)
    }


def _is_released(draft: Subject, released: Iterable[Definition]) -> bool:
    digests = {definition.digest for definition in released}
    return draft.grader is not None and draft.grader.digest in digests
