"""Replies in a file, so that a scored data set can be reproduced bit for bit and offline.

One JSON object a line: first ``{"format": 1}``, then ``{"key": …, "outcome": …}`` for every
question, refusals and cut-off answers included, because they decide flags. Failures of the
upstream are not recorded: nobody gave a reward then.

A question has one outcome: whoever records answers from the recording first, or else a question
that is refused once and answered later would be replayed as answered twice. A last line without its
end is what a killed writer leaves; it is passed over, and overwritten by who continues.
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO, Final, Literal

import msgspec

from service.judge.key import FORMAT
from service.judge.outcome import Answer, Failed, Outcome, Vectors


class RecordingError(ValueError):
    """A recording that cannot be read or written; says where and why."""


class _Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: int


class _Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    key: str
    outcome: Answer | Vectors


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
        self._file: BinaryIO | None = None
        data = self._data() if mode == "replay" or self._path.exists() else b""
        whole = self._load(data)
        if mode == "record":
            try:
                self._file = self._path.open("ab")
            except OSError as error:
                raise RecordingError(
                    f"the recording cannot be written: {error.strerror}"
                ) from error
            self._file.truncate(whole)
            if not whole:
                self._append(_Header(FORMAT))
            elif not data[:whole].endswith(b"\n"):
                self._file.write(b"\n")

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
        self._append(_Line(key, outcome))
        return outcome

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _append(self, line: msgspec.Struct) -> None:
        if self._file is not None:
            self._file.write(msgspec.json.encode(line) + b"\n")
            self._file.flush()

    def _data(self) -> bytes:
        try:
            return self._path.read_bytes()
        except OSError as error:
            raise RecordingError(f"the recording cannot be read: {error.strerror}") from error

    def _load(self, data: bytes) -> int:
        """Take in every whole line; return how many bytes they are."""
        whole = 0
        for number, line in enumerate(data.splitlines(keepends=True), start=1):
            try:
                if number == 1:
                    found = _HEADER.decode(line).format
                    if found != FORMAT:
                        raise RecordingError(f"the recording has format {found}, this is {FORMAT}")
                else:
                    entry = _LINE.decode(line)
                    self._outcomes.setdefault(entry.key, entry.outcome)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                if not line.endswith((b"\n", b"\r")):
                    break  # the last one, without its end
                raise RecordingError(f"line {number} of the recording cannot be read") from error
            whole += len(line)
        return whole
