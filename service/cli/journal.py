"""Scores on their way to a file: appended as they come, put in order at the end, never lost.

``OUT.partial`` starts with a line that says which grader, data and options it belongs to; then come
the same lines that ``OUT`` will have, in the order in which rows were done. A second run reads it
and goes on; a torn last line, left by a crash, is cut off. ``OUT`` appears at once and complete.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

import msgspec

from service.cli.failures import CommandError
from service.cli.lines import Line
from service.judge import Sampling

_MISSING = -1
_encode = msgspec.json.Encoder().encode


class Fingerprint(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a run is about; scores of another run must not be mixed with its own."""

    signature: str
    data_sha256: str
    data_bytes: int
    sample_field: str
    limit: int | None
    debug: bool
    sample_index: int = 0
    sampling: Sampling | None = None

    @property
    def id(self) -> str:
        """Short name of the run, in every line of its scores."""
        return hashlib.sha256(_encode(self)).hexdigest()[:16]

    def differences(self, other: Fingerprint) -> str:
        """Return what sets ``other`` apart, in words."""
        words = {
            "signature": "the grader",
            "data_sha256": "the data",
            "sample_field": "--sample-field",
            "limit": "--limit",
            "debug": "--debug",
            "sample_index": "--sample-index",
            "sampling": "the ensemble",
        }
        names = [
            word for name, word in words.items() if getattr(self, name) != getattr(other, name)
        ]
        return " and ".join(names)


class _Header(msgspec.Struct, frozen=True):
    run: Fingerprint


class _Indexed(msgspec.Struct, frozen=True):
    row: int


_header = msgspec.json.Decoder(_Header)
_indexed = msgspec.json.Decoder(_Indexed)
_line = msgspec.json.Decoder(Line)


class Journal:
    """The scores of a run so far."""

    def __init__(self, path: Path, run: Fingerprint, *, overwrite: bool = False) -> None:
        """Go on with ``path``, or start it.

        Raises:
            CommandError: It belongs to another run, is in use, or cannot be written.
        """
        self.path = path
        self._run = run
        self._offsets = array("q")
        self.done = 0
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise CommandError(f"{path}: {error.strerror}") from error
        self._file: IO[bytes] = os.fdopen(descriptor, "r+b")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if overwrite:
                self._file.truncate()
            self._read()
        except BlockingIOError as error:
            self._file.close()
            raise CommandError(f"{path} is being written by another run") from error
        except CommandError:
            self._file.close()
            raise

    def _read(self) -> None:
        """Index what is there and cut off what is torn."""
        header = self._file.readline()
        if not header.endswith(b"\n"):
            self._file.seek(0)
            self._file.truncate()
            self._write(_encode(_Header(self._run)) + b"\n")
            return
        try:
            found = _header.decode(header).run
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise CommandError(f"{self.path} is no journal of scores; --overwrite it?") from error
        if found != self._run:
            raise CommandError(
                f"{self.path} belongs to another run: {self._run.differences(found)} differed; "
                "--overwrite starts again"
            )
        end = len(header)
        for line in self._file:
            try:
                row = _indexed.decode(line).row if line.endswith(b"\n") else _MISSING
            except (msgspec.DecodeError, UnicodeDecodeError):
                row = _MISSING
            if row == _MISSING:
                break
            self._note(row, end)
            end += len(line)
        self._file.seek(end)
        self._file.truncate()

    def _note(self, row: int, offset: int) -> None:
        if row >= len(self._offsets):
            self._offsets.extend([_MISSING] * (row + 1 - len(self._offsets)))
        self.done += self._offsets[row] == _MISSING
        self._offsets[row] = offset

    def __contains__(self, row: int) -> bool:
        """Return whether ``row`` has a score."""
        return row < len(self._offsets) and self._offsets[row] != _MISSING

    def add(self, lines: Iterable[Line]) -> None:
        """Keep ``lines``; once this returns, they survive the end of this process.

        Raises:
            CommandError: The disk is full, or the like.
        """
        offset = self._file.tell()
        parts: list[bytes] = []
        for line in lines:
            text = _encode(line) + b"\n"
            self._note(line.row, offset)
            offset += len(text)
            parts.append(text)
        self._write(b"".join(parts))

    def _write(self, data: bytes) -> None:
        try:
            self._file.write(data)
            self._file.flush()
        except OSError as error:
            raise CommandError(f"{self.path}: {error.strerror}") from error

    def close(self) -> None:
        """Let another run go on; a journal without scores goes away."""
        if not self.done:
            self.path.unlink()
        self._file.close()

    def finish(self, out: Path) -> None:
        """Write all scores to ``out`` in the order of the rows, at once, and drop the journal.

        Raises:
            CommandError: ``out`` cannot be written.
        """
        write_atomically(out, self._ordered())
        self._file.close()
        self.path.unlink()

    def _ordered(self) -> Iterator[bytes]:
        position = _MISSING
        for offset in self._offsets:
            if offset != position:
                self._file.seek(offset)
            line = self._file.readline()
            position = offset + len(line)
            yield line


def write_atomically(path: Path, lines: Iterable[bytes]) -> None:
    """Replace ``path`` by a file of ``lines``.

    Raises:
        CommandError: It cannot be written.
    """
    draft = path.with_name(f".{path.name}.tmp")
    try:
        with draft.open("wb") as file:
            file.writelines(lines)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError as error:
        raise CommandError(f"{path}: {error.strerror}") from error


def read_scores(path: Path) -> Iterator[Line]:
    """Yield the lines of a finished file of scores.

    Raises:
        CommandError: It is none.
    """
    try:
        with path.open("rb") as file:
            yield from map(_line.decode, file)
    except OSError as error:
        raise CommandError(f"{path}: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CommandError(f"{path} is no file of scores; --overwrite replaces it") from error


def reopen(out: Path, partial: Path, run: Fingerprint) -> int:
    """Make finished scores a journal again; return how many rows are left out to be scored again.

    Raises:
        CommandError: The scores cannot be read, or the journal cannot be written.
    """
    dropped = 0

    def kept() -> Iterator[bytes]:
        nonlocal dropped
        yield _encode(_Header(run)) + b"\n"
        for line in read_scores(out):
            if line.is_open:
                dropped += 1
            else:
                yield _encode(line) + b"\n"

    write_atomically(partial, kept())
    return dropped
