"""Rows to score from JSON Lines, CSV and Parquet, streamed: a file may be larger than memory.

A row is ``{"item": {…}, "model_sample": "…"}`` or ``{"item": {…}, "sample": {…}}``; other keys
beside ``item`` are not read. Without ``item`` the row is flat: the column that ``--sample-field``
names (or an object under ``sample``) is the sample and everything else is the item.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import itertools
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import msgspec

from graders.errors import RowError
from graders.sample import JsonValue, Sample, json_name
from graders.wording import shortened
from service.cli.failures import CommandError

DEFAULT_SAMPLE_FIELD = "model_sample"
_BOM = b"\xef\xbb\xbf"
_CHUNK_BYTES = 1 << 20
_PARQUET_ROWS = 1024
_MAX_COLUMNS = 20  # in a message
_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


class Row(msgspec.Struct, frozen=True):
    """One readable row.

    Attributes:
        index: Zero-based position in the data.
        item: What the dataset says.
        sample: What the model said.
        fields: The sample as it was given, where it was an object.
    """

    index: int
    item: dict[str, Any]
    sample: Sample
    fields: dict[str, Any] | None = None

    def as_request(self) -> bytes:
        """Return the row as the JSON that the service takes."""
        if self.fields is None:
            return _encode({"item": self.item, "model_sample": self.sample.output_text})
        return _encode({"item": self.item, "sample": self.fields})


class Unreadable(msgspec.Struct, frozen=True):
    """One row that no grader can read, and why."""

    index: int
    message: str


Record: TypeAlias = (
    Any  # a line, the cells of a row, an object: what a format reads before decoding
)


class Format(Protocol):
    """How rows lie in a file."""

    def records(self) -> Iterator[Record]:
        """Yield every row undecoded.

        Raises:
            CommandError: The file as a whole cannot be read.
        """
        ...

    def decode(self, record: Record) -> JsonValue:
        """Return the row's value.

        Raises:
            RowError: It has none.
        """
        ...


class JsonLines:
    """One JSON object a line; blank lines are no rows."""

    def __init__(self, path: Path, max_line_bytes: int) -> None:
        """Read ``path``; a line over the limit is an unreadable row."""
        self._path = path
        self._max = max_line_bytes

    def records(self) -> Iterator[bytes]:
        """Yield the lines, overlong ones cut."""
        with self._path.open("rb") as file:
            if file.read(len(_BOM)) != _BOM:
                file.seek(0)
            while line := file.readline(self._max + 1):
                rest = line
                while len(rest) > self._max and not rest.endswith(b"\n"):
                    rest = file.readline(self._max + 1)
                if line.strip():
                    yield line

    def decode(self, record: bytes) -> JsonValue:
        """Return the value of a line."""
        if len(record) > self._max:
            raise RowError(f"the line is longer than {self._max} bytes")
        try:
            return _decode(record)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise RowError(not_json(error)) from error


class Csv:
    """Comma-separated values under a line of names; cells ``item`` and ``sample`` may hold JSON."""

    def __init__(self, path: Path, max_cell_chars: int) -> None:
        """Read ``path``."""
        self._path = path
        self._max = max_cell_chars
        self._names: list[str] = []

    def records(self) -> Iterator[list[str]]:
        """Yield the cells of every row after the names."""
        csv.field_size_limit(self._max)
        with self._path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            reader = csv.reader(file)
            try:
                self._names = next(reader, [])
                if not self._names or len(set(self._names)) != len(self._names):
                    raise CommandError(f"{self._path}: the first line must name every column once")
                yield from filter(None, reader)
            except csv.Error as error:
                raise CommandError(f"{self._path}: line {reader.line_num}: {error}") from error

    def decode(self, record: list[str]) -> JsonValue:
        """Return the cells under their names."""
        if len(record) != len(self._names):
            raise RowError(f"{len(record)} cells under {len(self._names)} names")
        try:
            "".join(record).encode()
        except UnicodeEncodeError as error:
            raise RowError("not UTF-8") from error
        fields: dict[str, Any] = dict(zip(self._names, record, strict=True))
        return {
            name: _json_or_text(cell) if name in {"item", "sample"} else cell
            for name, cell in fields.items()
        }


class Parquet:
    """Apache Parquet, with the extra ``parquet``.

    Of what JSON lacks, times and bytes become text and NaN, which stands for a missing number,
    becomes null; a row with an infinite number is unreadable.
    """

    def __init__(self, path: Path) -> None:
        """Read ``path``.

        Raises:
            CommandError: pyarrow is not installed, or the file is no Parquet.
        """
        try:
            import pyarrow.parquet  # noqa: PLC0415 - an optional extra, and slow to import
        except ImportError as error:
            raise CommandError(
                "reading Parquet needs pyarrow: pip install 'gradekeeper[parquet]'"
            ) from error
        self._path = path
        try:
            self._file = pyarrow.parquet.ParquetFile(path)
            self.rows: int = self._file.metadata.num_rows
        except (pyarrow.ArrowException, OSError) as error:
            raise CommandError(f"{path}: not readable as Parquet: {error}") from error

    def records(self) -> Iterator[dict[str, Any]]:
        """Yield every row as an object."""
        from pyarrow import ArrowException  # noqa: PLC0415 - as above

        try:
            for batch in self._file.iter_batches(_PARQUET_ROWS):
                yield from batch.to_pylist()
        except (ArrowException, OSError, ValueError) as error:
            raise CommandError(f"{self._path}: not readable to its end: {error}") from error

    def decode(self, record: dict[str, Any]) -> JsonValue:
        """Return the row as JSON knows it."""
        for name, value in record.items():
            if _holds_infinity(value):
                raise RowError(f"{name} holds an infinite number, which JSON lacks")
        try:
            fields = _decode(_encode(record))
        except (TypeError, ValueError) as error:
            raise RowError(f"has no form in JSON: {error}") from error
        if isinstance(fields.get("item"), str):
            fields["item"] = _json_or_text(fields["item"])
        return fields


class DataFile:
    """The file whose rows are scored.

    Attributes:
        size: Bytes.
        sha256: Hex digest of its content.
        expected: Rows to expect; for text, an estimate.
    """

    def __init__(self, path: Path, *, sample_field: str, limit: int | None, max_bytes: int) -> None:
        """Open ``path``, whose name tells its format.

        Raises:
            CommandError: It cannot be read.
        """
        self._sample_field = sample_field
        self._limit = limit
        digest = hashlib.sha256()
        self.size = lines = 0
        try:
            with path.open("rb") as file:
                while chunk := file.read(_CHUNK_BYTES):
                    digest.update(chunk)
                    self.size += len(chunk)
                    lines += chunk.count(b"\n")
        except OSError as error:
            raise CommandError(f"{path}: {error.strerror}") from error
        self.sha256 = digest.hexdigest()
        self._format = _format(path, max_bytes)
        known = self._format.rows if isinstance(self._format, Parquet) else lines
        self.expected = known if limit is None else min(known, limit)

    def rows(self, skip: Callable[[int], bool]) -> Iterator[Row | Unreadable]:
        """Yield the rows whose index ``skip`` does not refuse, in order.

        Raises:
            CommandError: The file as a whole cannot be read.
        """
        decode, sample_field = self._format.decode, self._sample_field
        for index, record in enumerate(itertools.islice(self._format.records(), self._limit)):
            if skip(index):
                continue
            try:
                yield _row(index, decode(record), sample_field)
            except RowError as error:
                yield Unreadable(index, str(error))

    def unusable(self) -> str:
        """Return a hint for data without a row that can be read."""
        columns: list[str] = []
        with contextlib.suppress(RowError):
            for record in itertools.islice(self._format.records(), 1):
                fields = self._format.decode(record)
                columns = list(fields) if isinstance(fields, dict) else []
        if not columns or self._sample_field in columns:
            return (
                'no row is usable; a row is {"item": {…}, "model_sample": "…"}, and the first line '
                "of a CSV file names its columns"
            )
        names = ", ".join(map(shortened, columns[:_MAX_COLUMNS]))
        more = ", …" if len(columns) > _MAX_COLUMNS else ""
        return (
            f"no row is usable: there is no column {self._sample_field}; there are {names}{more}. "
            "--sample-field names the one with the model's output"
        )


def not_json(error: Exception) -> str:
    """Return that a text is not JSON, and why."""
    return f"not JSON: {str(error).removeprefix('JSON is malformed: ')}"


def _format(path: Path, max_bytes: int) -> Format:
    match path.suffix.lower():
        case ".csv":
            return Csv(path, max_bytes)
        case ".parquet" | ".pq":
            return Parquet(path)
        case _:
            return JsonLines(path, max_bytes)


def _row(index: int, fields: JsonValue, sample_field: str) -> Row:
    """Return the row that ``fields`` are.

    Raises:
        RowError: They are none.
    """
    if not isinstance(fields, dict):
        raise RowError(f"expected an object, got {json_name(fields)}")
    given = fields.get("sample")
    given = given if isinstance(given, dict) else None
    text = fields.get(sample_field)
    text = None if text is given else text
    if (text is None) == (given is None):
        problem = "neither is there" if given is None else "both are there"
        if given is None and sample_field in fields:
            problem = f'{sample_field} is null (an empty answer is "")'
        raise RowError(f"expected {sample_field} (a string) or sample (an object): {problem}")
    if "item" in fields:
        item = fields["item"]
    else:
        used = {sample_field} if given is None else {sample_field, "sample"}
        item = {key: value for key, value in fields.items() if key not in used}
    if not isinstance(item, dict):
        raise RowError(f"item: expected an object, got {json_name(item)}")
    if given is not None:
        return Row(index, item, Sample.from_answer(given), given)
    if not isinstance(text, str):
        raise RowError(f"{sample_field}: expected a string, got {json_name(text)}")
    return Row(index, item, Sample(text))


def _holds_infinity(value: Any) -> bool:  # noqa: ANN401 - what a Parquet cell may hold
    if isinstance(value, float):
        return math.isinf(value)
    if isinstance(value, dict):
        return any(map(_holds_infinity, value.values()))
    return isinstance(value, list) and any(map(_holds_infinity, value))


def _json_or_text(cell: str) -> JsonValue:
    try:
        return _decode(cell)
    except (msgspec.DecodeError, RecursionError):
        return cell
