"""``gradekeeper health``: asks the server of this container whether it lives."""

from __future__ import annotations

import argparse
import http.client
import socket

from service.cli import failures
from service.cli.failures import CommandError
from service.cli.runtime import read_settings
from service.sandbox.addresses import Address, TcpAddress, UnixAddress, parse_listen

EXIT_CODES = {
    failures.OK: "it lives",
    failures.UNUSABLE: "unusable settings",
    failures.UNREACHABLE: "it does not answer, or not well",
}
_TIMEOUT_S = 5.0
_OK = 200
_ANY = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - named, not bound


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=_TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket instead of the host."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(_TIMEOUT_S)
        self.sock.connect(self._path)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "--runner", action="store_true", help="ask the runner (`gradekeeper runner`)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Ask for ``/healthz`` where the settings say that the server listens."""
    settings = read_settings(runner=arguments.runner)
    address: Address = TcpAddress(settings.host, settings.port)
    if arguments.runner:
        try:
            address = parse_listen(settings.runner_listen)
        except ValueError as error:
            raise CommandError(f"GRADEKEEPER_RUNNER_LISTEN: {error}") from error
    connection = (
        _UnixConnection(address.path)
        if isinstance(address, UnixAddress)
        else http.client.HTTPConnection(
            _ANY.get(address.host, address.host), address.port, timeout=_TIMEOUT_S
        )
    )
    try:
        connection.request("GET", "/healthz")
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        raise CommandError(f"no answer at {address}: {error}", code=failures.UNREACHABLE) from error
    finally:
        connection.close()
    if status != _OK:
        raise CommandError(f"{address} answered {status}", code=failures.UNREACHABLE)
    return failures.OK
