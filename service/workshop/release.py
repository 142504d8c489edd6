"""Releases a draft: the next immutable version and its line in the lock; pins what is there.

What is released already is never touched. Identical content is the existing version, so a release
that was interrupted is finished by releasing again.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import msgspec

from graders.building import Options
from graders.engine import digest_of
from graders.errors import DefinitionError
from graders.registry import EXAMPLES, LOCK, define
from graders.sample import JsonValue
from service.workshop.library import Subject
from service.workshop.probe_files import PROBE_LINES, PROBES

AUTHORED = ("README.md", EXAMPLES, PROBES, PROBE_LINES)  # with src, what an author writes
_VERSION_FILE = re.compile(r"[1-9][0-9]*\.json\Z")
_LOCK_LINE = re.compile(r"(\S+)@([1-9][0-9]*) (sha256:[0-9a-f]{64})\Z")


class ReleaseError(RuntimeError):
    """A draft that cannot be released; one line says why."""


class Released(msgspec.Struct, frozen=True, kw_only=True):
    """A version.

    Attributes:
        file: Its JSON, exactly what goes into a job.
        is_new: False when the content had been released before.
    """

    grader: str
    version: int
    digest: str
    file: Path
    is_new: bool


def document_text(document: JsonValue) -> bytes:
    """Return grader JSON as it is stored: indented, keys in the author's order."""
    return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"


def release(draft: Subject, directory: Path) -> Released:
    """Write ``draft`` as the next version of its grader in ``directory``.

    Args:
        draft: What ``src`` assembles to; it has been checked.
        directory: The directory of definitions.

    Raises:
        ReleaseError: The draft does not compile, a version was changed after its release, or a
            file of this version appeared meanwhile.
    """
    if draft.grader is None:
        raise ReleaseError("; ".join(draft.problems))
    lock = _Lock(directory / LOCK)
    folder = directory / draft.name
    _adopt(draft.folder, folder)
    digests = _digests(folder)
    lock.compare(draft.name, digests)
    digest = draft.grader.digest
    known = next((number for number, each in digests.items() if each == digest), None)
    number = known or len(digests) + 1
    file = folder / f"{number}.json"
    if known is None:
        _write_new(file, document_text(draft.document))
    lock.pin(folder)
    return Released(
        grader=draft.name, version=number, digest=digest, file=file, is_new=known is None
    )


def pin(folder: Path, options: Options) -> dict[int, str]:
    """Pin the versions that were written into ``folder`` by hand; return version → digest.

    Raises:
        ReleaseError: A version cannot be served, is missing, or was changed after it was pinned.
    """
    lock = _Lock(folder.parent / LOCK)
    digests = _digests(folder)
    lock.compare(folder.name, digests)
    for version in digests:
        file = folder / f"{version}.json"
        try:
            define(folder.name, version, file.read_bytes(), options)
        except DefinitionError as error:
            raise ReleaseError(f"{file}: {error}") from error
    lock.pin(folder)
    return digests


def _digests(folder: Path) -> dict[int, str]:
    """Return version → digest of what is released in ``folder``.

    Raises:
        ReleaseError: A version cannot be read, or one is missing.
    """
    files = [path for path in folder.glob("*.json") if _VERSION_FILE.match(path.name)]
    found: dict[int, str] = {}
    for file in sorted(files, key=lambda path: int(path.stem)):
        try:
            found[int(file.stem)] = digest_of(msgspec.json.decode(file.read_bytes()))
        except (OSError, ValueError, RecursionError) as error:
            raise ReleaseError(f"{file}: {error}") from error
    if list(found) != list(range(1, len(found) + 1)):
        raise ReleaseError(f"{folder}: versions are missing between 1 and the last: {list(found)}")
    return found


def _adopt(source: Path, folder: Path) -> None:
    """Bring what the author wrote to where the versions are, unless it is there already."""
    if folder.exists() and folder.samefile(source):
        return
    folder.mkdir(parents=True, exist_ok=True)
    for name in AUTHORED:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
    shutil.rmtree(folder / "src", ignore_errors=True)
    shutil.copytree(source / "src", folder / "src")


def _write_new(file: Path, content: bytes) -> None:
    """Write a file that must not exist; nobody ever sees half of it."""
    waiting = file.with_name(f".{file.name}.{os.getpid()}")
    waiting.write_bytes(content)
    try:
        os.link(waiting, file)  # unlike a rename, this fails when the file exists
    except FileExistsError as error:
        raise ReleaseError(f"{file} appeared meanwhile; release again") from error
    finally:
        waiting.unlink()


class _Lock:
    """``definitions.lock``: lines are added, as `registry.lock_lines` sorts, and never changed."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.exists = file.exists()
        self._lines: dict[tuple[str, int], str] = {}
        for line in file.read_text(encoding="utf-8").splitlines() if self.exists else ():
            match = _LOCK_LINE.match(line)
            if match is None:
                raise ReleaseError(f"{file}: not a line of a lock: {line!r}")
            self._lines[match[1], int(match[2])] = match[3]

    def compare(self, name: str, digests: Mapping[int, str]) -> None:
        """Refuse to go on when a version of ``name`` was changed after its release."""
        for version, digest in digests.items():
            if self._lines.get((name, version), digest) != digest:
                problem = f"{name}@{version} was changed after its release; restore it first"
                raise ReleaseError(problem)

    def pin(self, folder: Path) -> None:
        """Add what is released in ``folder``; the first lock of a directory has all folders."""
        folders = [folder] if self.exists else sorted(folder.parent.iterdir())
        self._add({each.name: _digests(each) for each in folders if each.is_dir()})

    def _add(self, digests: Mapping[str, Mapping[int, str]]) -> None:
        """Add the lines that are missing."""
        lines = dict(self._lines)
        for name, versions in digests.items():
            for version, digest in versions.items():
                lines.setdefault((name, version), digest)
        if lines == self._lines:
            return
        pairs = sorted(lines.items())
        text = "".join(f"{name}@{version} {digest}\n" for (name, version), digest in pairs)
        waiting = self._file.with_name(f".{self._file.name}.{os.getpid()}")
        waiting.write_text(text, encoding="utf-8")
        waiting.replace(self._file)
