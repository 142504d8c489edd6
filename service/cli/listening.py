"""What servers of ours listen on, and how uvicorn ends."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from types import FrameType

import uvicorn

from service.cli.failures import CommandError

_UNSUPPORTED = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}  # an address family this machine lacks
_GROUP_MODE = 0o660


class Server(uvicorn.Server):
    """Ends with exit code 0 after a graceful stop; uvicorn's own would die of the signal again."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop; a second SIGINT stops without waiting."""
        super().handle_exit(sig, frame)
        self._captured_signals.clear()


def bind_tcp(host: str, port: int, backlog: int) -> list[socket.socket]:
    """Return listening sockets, one for each address that the host's name has.

    Raises:
        CommandError: The address cannot be listened on.
    """
    sockets: list[socket.socket] = []
    problem: OSError | None = None
    try:
        for family, *_, address in socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        ):
            try:
                listener = socket.create_server((address[0], port), family=family, backlog=backlog)
            except OSError as error:
                problem = error
                if error.errno not in _UNSUPPORTED:
                    raise
                continue
            sockets.append(listener)
            port = listener.getsockname()[1]
    except OSError as error:
        problem = error
        sockets.clear()
    if not sockets:
        reason = _reason(problem) if problem else "no such address"
        raise CommandError(f"cannot listen on {host}, port {port}: {reason}")
    return sockets


def bind_unix(path: str, backlog: int) -> socket.socket:
    """Return a socket that listens at ``path``, for owner and group; one left behind is replaced.

    Raises:
        CommandError: It cannot be listened on, or somebody listens already.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale(path)
        mask = os.umask(0o777 & ~_GROUP_MODE)
        try:
            listener.bind(path)
        finally:
            os.umask(mask)
        listener.listen(backlog)
    except OSError as error:
        listener.close()
        reason = "too long" if error.errno is None else _reason(error)
        if error.errno == errno.ENOENT:
            reason = f"there is no directory {os.path.dirname(path)}"  # noqa: PTH120
        raise CommandError(f"cannot listen on unix:{path}: {reason}") from error
    return listener


def _remove_stale(path: str) -> None:
    """Remove a socket that nobody listens on.

    Raises:
        OSError: Somebody does.
    """
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(1)
            try:
                probe.connect(path)
            except ConnectionRefusedError:
                os.unlink(path)  # noqa: PTH108 - a name as the kernel takes it
                return
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def _reason(error: OSError) -> str:
    """Return why an address cannot be listened on, without what libraries add to it."""
    if isinstance(error, socket.gaierror):
        return str(error.strerror)
    return os.strerror(error.errno or 0)
