"""A crowd of connections in a process of its own.

``python -m tests.cluster.crowd PORT NUMBER WAY`` is what the process runs.

WAY is ``idle`` (connect and say nothing; every second one has asked once), ``head`` (a byte of a
header a second) or ``body`` (a byte of a body a second). Prints how many it has open, then, when
standard input ends, how many of them the other side has closed.
"""

from __future__ import annotations

import contextlib
import resource
import selectors
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator

from tests.bench.servers import ROOT

_FIRST = {
    "idle": b"",
    "head": b"POST /v1/graders/exact/versions/1/score HTTP/1.1\r\nhost: x\r\nx-slow: ",
    "body": b"POST /healthz HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n\r\n",
}
_ASK = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"


class Crowd:
    """The process of a crowd.

    Attributes:
        size: Connections that it has opened.
    """

    def __init__(self, process: subprocess.Popen[str]) -> None:
        """Wait until all of them are open."""
        self._process = process
        assert process.stdout is not None
        self.size = int(process.stdout.readline())

    def leave(self) -> int:
        """Close every connection; return how many the other side had closed before."""
        closed, _ = self._process.communicate("")
        return int(closed)


@contextlib.contextmanager
def crowd(port: int, number: int, way: str) -> Iterator[Crowd]:
    """Run one."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.cluster.crowd", str(port), str(number), way],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield Crowd(process)
        finally:
            process.kill()


def _connected(port: int, number: int, way: str) -> Iterator[socket.socket]:
    for index in range(number):
        link = socket.create_connection(("127.0.0.1", port), timeout=30)
        first = _ASK if way == "idle" and index % 2 else _FIRST[way]
        if first:
            link.sendall(first)
        if first is _ASK:
            link.recv(4096)
        link.setblocking(False)
        yield link


def _is_open(link: socket.socket) -> bool:
    """Return whether the other side has not closed ``link``, whatever it has said."""
    try:
        while link.recv(4096):
            pass
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _forget_closed(selector: selectors.BaseSelector) -> int:
    """Take out connections that the other side has closed; return how many."""
    closed = 0
    for key, _ in selector.select(0):
        link = key.fileobj
        assert isinstance(link, socket.socket)
        if not _is_open(link):
            closed += 1
            selector.unregister(link)
            link.close()
    return closed


def _await_end(ended: threading.Event) -> None:
    sys.stdin.read()
    ended.set()


def main() -> None:
    """Connect, dribble until standard input ends, count."""
    port, number, way = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    ended = threading.Event()
    threading.Thread(target=_await_end, args=[ended], daemon=True).start()
    selector = selectors.DefaultSelector()
    for link in _connected(port, number, way):
        selector.register(link, selectors.EVENT_READ)
    print(number, flush=True)  # noqa: T201 - read by the parent
    closed = 0
    dribbling = way != "idle"
    while not ended.wait(1.0):
        closed += _forget_closed(selector)
        for key in list(selector.get_map().values()) if dribbling else ():
            with contextlib.suppress(OSError):
                key.fileobj.send(b"x")  # type: ignore[union-attr]
    closed += _forget_closed(selector)
    print(closed)  # noqa: T201 - read by the parent


if __name__ == "__main__":
    main()
