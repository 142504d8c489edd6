"""One JSON line an event on standard error; never sample text, prompts or keys.

Access lines are collected and written together, since a write a request costs more than the
request's own handling. Anything else goes through the standard `logging` module in the same form.
"""

from __future__ import annotations

import contextlib
import logging
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

_ENCODER = msgspec.json.Encoder()
_EXTRA = "fields"
_UNPRINTABLE = re.compile(r"[^\x20-\x7e\n]")


class AccessLine(msgspec.Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """What is logged of one request."""

    time: float
    level: str
    event: str
    request_id: str
    method: str
    route: str
    status: int
    seconds: float
    key: str | None = None
    client: str | None = None


class JsonFormatter(logging.Formatter):
    """Writes a log record as one JSON object."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record's line."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            "logger": record.name,
            **getattr(record, _EXTRA, {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return printable(_ENCODER.encode(line)).decode()


def configure(level: str) -> None:
    """Send every log record to standard error in our form."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in ("uvicorn", "uvicorn.error", "litestar"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    # The access log is ours; uvicorn leaves its own out when nobody would hear it.
    access = logging.getLogger("uvicorn.access")
    access.handlers.clear()
    access.propagate = False


def event(logger: logging.Logger, level: int, message: str, fields: Mapping[str, Any]) -> None:
    """Log ``message`` with ``fields`` beside it."""
    logger.log(level, message, extra={_EXTRA: dict(fields)})


class AccessLog:
    """Writes access lines, many at a time."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        """Write through ``write``."""
        self._write = write

    def write(self, lines: Sequence[AccessLine]) -> None:
        """Write ``lines`` in one go."""
        if lines:
            self._write(printable(_ENCODER.encode_lines(lines)))


def printable(lines: bytes) -> bytes:
    """Return JSON ``lines`` in printable ASCII: texts from outside must not steer a terminal.

    JSON itself escapes C0 control characters only; U+009B, for one, begins a sequence as well.
    """
    if lines.isascii() and b"\x7f" not in lines:
        return lines
    return _UNPRINTABLE.sub(_escaped, lines.decode()).encode()


def _escaped(found: re.Match[str]) -> str:
    units = found[0].encode("utf-16-be").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))


def write_stderr(data: bytes) -> None:
    """Write to standard error at once; nobody who reads it, or a full disk, costs lines only."""
    with contextlib.suppress(OSError, ValueError):  # ValueError: it is closed
        sys.stderr.buffer.write(data)
        sys.stderr.buffer.flush()
