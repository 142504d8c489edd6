"""Replies in a file, so that a scored data set can be reproduced bit for bit and offline.

One JSON object a line: first ``{"format": 1}``, then ``{"key": …, "outcome": …}`` for every
question, refusals and cut-off answers included, because they decide flags. Failures of the
upstream are not recorded: nobody gave a reward then. The last line of a key counts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal, TextIO

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
        self._file: TextIO | None = None
        there = self._path.exists()
        if there or mode == "replay":
            self._load()
        if mode == "record":
            try:
                self._file = self._path.open("a", encoding="utf-8")
            except OSError as error:
                raise RecordingError(
                    f"the recording cannot be written: {error.strerror}"
                ) from error
            if not there or self._path.stat().st_size == 0:
                self._append(_Header(FORMAT))

    def __len__(self) -> int:
        """Return the number of questions."""
        return len(self._outcomes)

    def find(self, key: str) -> Answer | Vectors | None:
        """Return the recorded outcome of a question."""
        return self._outcomes.get(key)

    def record(self, key: str, outcome: Outcome) -> None:
        """Append an outcome that is new or different; failures are left out."""
        if isinstance(outcome, Failed) or self._outcomes.get(key) == outcome:
            return
        self._outcomes[key] = outcome
        self._append(_Line(key, outcome))

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _append(self, line: msgspec.Struct) -> None:
        if self._file is not None:
            self._file.write(msgspec.json.encode(line).decode() + "\n")
            self._file.flush()

    def _load(self) -> None:
        try:
            lines = self._path.read_bytes().splitlines()
        except OSError as error:
            raise RecordingError(f"the recording cannot be read: {error.strerror}") from error
        for number, line in enumerate(lines, start=1):
            try:
                if number == 1:
                    found = _HEADER.decode(line).format
                    if found != FORMAT:
                        raise RecordingError(f"the recording has format {found}, this is {FORMAT}")
                    continue
                entry = _LINE.decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise RecordingError(f"line {number} of the recording cannot be read") from error
            self._outcomes[entry.key] = entry.outcome
