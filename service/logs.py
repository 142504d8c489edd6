"""One JSON line an event on standard error; never sample text, prompts or keys.

Access lines are collected and written together, since a write a request costs more than the
request's own handling. Anything else goes through the standard `logging` module in the same form.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

_ENCODER = msgspec.json.Encoder()
_EXTRA = "fields"


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
        return _ENCODER.encode(line).decode()


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
            self._write(_ENCODER.encode_lines(lines))


def write_stderr(data: bytes) -> None:
    """Write to standard error at once; nobody who reads it, or a full disk, costs lines only."""
    with contextlib.suppress(OSError, ValueError):  # ValueError: it is closed
        sys.stderr.buffer.write(data)
        sys.stderr.buffer.flush()
