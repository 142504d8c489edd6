"""Replies in a file, so that a scored data set can be reproduced bit for bit and offline.

One JSON object a line: first ``{"format": 1}``, then ``{"key": …, "outcome": …}`` for every
question, refusals and cut-off answers included, because they decide flags. Failures of the
upstream are not recorded: nobody gave a reward then.

A question has one outcome: whoever records answers from the recording first, or else a question
that is refused once and answered later would be replayed as answered twice. A last line without its
end is what a killed writer leaves; it is passed over, and overwritten by who continues.

A full disk costs no reply: lines that cannot be written are kept, and written once there is room.
Several processes may append to one file, whole lines each, under a lock.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal

import msgspec

from service.judge.key import FORMAT
from service.judge.outcome import Answer, Failed, Outcome, Vectors
from service.logs import event

logger = logging.getLogger(__name__)


class RecordingError(ValueError):
    """A recording that cannot be read or written; says where and why."""


class _Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: int


class _Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    key: str
    outcome: Answer | Vectors


_FIRST_LINE: Final = msgspec.json.encode(_Header(FORMAT)) + b"\n"
_HEADER: Final = msgspec.json.Decoder(_Header)
_LINE: Final = msgspec.json.Decoder(_Line)


class Recording:
    """A recording file.

    Args:
        path: The file. ``replay`` needs it; ``record`` makes it or continues it.
        mode: What it is used for.

    Raises:
        RecordingError: It cannot be opened, or a line of it cannot be read.
    """

    def __init__(self, path: str | Path, *, mode: Literal["record", "replay"]) -> None:
        """Read what is there."""
        self._path = Path(path)
        self._outcomes: dict[str, Answer | Vectors] = {}
        self._file: int | None = None
        self._unwritten = b""
        self._is_failing = False
        if mode == "replay":
            self._load(self._data())
        else:
            self._continue()

    def __len__(self) -> int:
        """Return the number of questions."""
        return len(self._outcomes)

    def find(self, key: str) -> Answer | Vectors | None:
        """Return the recorded outcome of a question."""
        return self._outcomes.get(key)

    def record(self, key: str, outcome: Outcome) -> Outcome:
        """Return the outcome that counts: what is recorded already, else ``outcome``.

        The latter is appended, unless it is a failure.
        """
        recorded = self._outcomes.get(key)
        if recorded is not None or isinstance(outcome, Failed):
            return recorded or outcome
        self._outcomes[key] = outcome
        self._append(msgspec.json.encode(_Line(key, outcome)) + b"\n")
        return outcome

    def close(self) -> None:
        """Write what could not be written before, and close the file."""
        if self._file is not None:
            self._append(b"")
            os.close(self._file)
            self._file = None

    def _continue(self) -> None:
        """Open the file and read it; what a killed writer left unfinished goes."""
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        try:
            self._file = os.open(self._path, flags, 0o666)
        except OSError as error:
            raise RecordingError(
                f"the recording {self._path} cannot be written: {error.strerror}"
            ) from error
        with _locked(self._file):
            data = self._data()
            whole = self._load(data)
            if whole < len(data):
                os.ftruncate(self._file, whole)
        if not whole:
            self._append(_FIRST_LINE)
        elif not data[:whole].endswith(b"\n"):
            self._append(b"\n")

    def _append(self, text: bytes) -> None:
        self._unwritten += text
        if self._file is None or not self._unwritten:
            return
        try:
            _write_whole(self._file, self._unwritten)
        except OSError as error:
            if not self._is_failing:
                self._is_failing = True
                fields = {"reason": error.strerror}
                event(logger, logging.ERROR, "recording cannot be written", fields)
            return
        self._unwritten = b""
        if self._is_failing:
            self._is_failing = False
            event(logger, logging.INFO, "recording written again", {})

    def _data(self) -> bytes:
        try:
            return self._path.read_bytes()
        except OSError as error:
            raise RecordingError(
                f"the recording {self._path} cannot be read: {error.strerror}"
            ) from error

    def _load(self, data: bytes) -> int:
        """Take in every whole line; return how many bytes they are."""
        whole = 0
        for number, line in enumerate(data.splitlines(keepends=True), start=1):
            try:
                if number == 1:
                    found = _HEADER.decode(line).format
                    if found != FORMAT:
                        raise RecordingError(
                            f"the recording {self._path} has format {found}, this is {FORMAT}"
                        )
                elif line != _FIRST_LINE:  # of a second process that began at the same time
                    entry = _LINE.decode(line)
                    self._outcomes.setdefault(entry.key, entry.outcome)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                if not line.endswith((b"\n", b"\r")):
                    break  # the last one, without its end
                what = f"line {number} of the recording {self._path} cannot be read"
                raise RecordingError(what) from error
            whole += len(line)
        return whole


@contextlib.contextmanager
def _locked(file: int) -> Iterator[None]:
    """Keep other processes from writing meanwhile."""
    fcntl.flock(file, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)


def _write_whole(file: int, text: bytes) -> None:
    """Append all of ``text`` or nothing: others may write next.

    Raises:
        OSError: There is no room.
    """
    with _locked(file):
        size = os.fstat(file).st_size
        if os.write(file, text) < len(text):
            os.ftruncate(file, size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
