"""Kept-alive HTTP connections that threads share and forked processes do not.

Idle connections wait in a deque, whose ends are atomic, so there is no lock that a fork could copy
while it is held. Each remembers the process that opened it; a child closes its copy unused.
"""

from __future__ import annotations

import os
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPConnection, HTTPSConnection
from urllib.parse import urlsplit


class Call:
    """The deadline of one call to a scorer, and its cancellation from another thread."""

    def __init__(self, seconds: float) -> None:
        """End ``seconds`` from now."""
        self._ends = time.monotonic() + seconds
        self._cancelled = threading.Event()
        self._open: set[HTTPConnection] = set()
        self._lock = threading.Lock()

    def remaining(self) -> float:
        """Return the seconds left; 0.0 when time is up or nobody waits any more."""
        if self._cancelled.is_set():
            return 0.0
        return max(0.0, self._ends - time.monotonic())

    def wait(self, seconds: float) -> bool:
        """Wait; return False at once where the deadline would pass, or when cancelled."""
        return seconds < self.remaining() and not self._cancelled.wait(seconds)

    def cancel(self) -> None:
        """Wake whoever waits, and break the connections in use."""
        self._cancelled.set()
        with self._lock:
            for connection in self._open:
                if connection.sock is not None:
                    with suppress(OSError):
                        connection.sock.shutdown(socket.SHUT_RDWR)

    @contextmanager
    def using(self, connection: HTTPConnection) -> Iterator[None]:
        """Break ``connection`` when the call is cancelled within the block."""
        with self._lock:
            self._open.add(connection)
        try:
            yield
        finally:
            with self._lock:
                self._open.discard(connection)


class Connections:
    """Connections to one server."""

    def __init__(self, url: str, *, keep: int, ca_file: str | None = None) -> None:
        """Keep at most ``keep`` idle ones.

        Raises:
            OSError: ``ca_file`` cannot be read or holds no certificates.
        """
        parts = urlsplit(url)
        self._host = parts.hostname or ""
        self._port = parts.port
        secure = parts.scheme == "https"
        self._tls = ssl.create_default_context(cafile=ca_file) if secure else None
        self._idle: deque[tuple[int, HTTPConnection]] = deque(maxlen=keep)

    def take(self) -> tuple[HTTPConnection, bool]:
        """Return a connection and whether it was used before."""
        with suppress(IndexError):
            while True:
                process, connection = self._idle.pop()
                if process == os.getpid():
                    return connection, True
                connection.close()  # the child's copy; the parent's stays open
        return self._new(), False

    def give(self, connection: HTTPConnection) -> None:
        """Keep ``connection``, whose answer was read to the end, for the next request."""
        self._idle.append((os.getpid(), connection))

    def forget(self) -> None:
        """Close every idle connection."""
        with suppress(IndexError):
            while True:
                self._idle.pop()[1].close()

    def _new(self) -> HTTPConnection:
        if self._tls is not None:
            return HTTPSConnection(self._host, self._port, context=self._tls)
        return HTTPConnection(self._host, self._port)
