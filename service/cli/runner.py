"""``gradekeeper runner``: runs Python graders for services elsewhere; holds no keys."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import resource
import socket

from uvicorn import Config

from service import __version__
from service.adapters import LateSandbox
from service.cli import failures
from service.cli.failures import CommandError
from service.cli.listening import Server, bind_tcp, bind_unix
from service.cli.output import show
from service.cli.runtime import read_settings
from service.logs import configure, event
from service.runner import Runner
from service.sandbox.addresses import Address, UnixAddress, parse_listen
from service.settings import PREFIX, Settings, environment
from service.tokens import TokenError, TokenFile

EXIT_CODES = {
    failures.OK: "stopped by SIGTERM or SIGINT after finishing what was accepted",
    failures.UNUSABLE: "unusable settings, too weak an isolation, or the address is taken",
}
JUDGE_KEYS = ("AZURE_OPENAI_API_KEY", "OPENAI_API_KEY")  # as official clients read them
_LOOPBACK = {"127.0.0.1", "::1", "localhost"}
_OWN_FILES = 256  # descriptors that are not for connections of calls
_SPARE_FILES = 64  # of these, not for connections that are refused
_FEWEST_CALLS = 64

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments; each overrides its setting."""
    parser.add_argument(
        "--listen", metavar="ADDRESS", help="unix:/absolute/path or host:port to listen on"
    )


def run(arguments: argparse.Namespace) -> int:
    """Serve until a signal stops it."""
    if arguments.listen is not None:
        os.environ[f"{PREFIX}RUNNER_LISTEN"] = arguments.listen
    settings = read_settings(runner=True)
    configure(settings.log_level)
    address, tokens = _checked(settings)
    listeners = _bind(address, settings)
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    max_calls = max(_FEWEST_CALLS, files - _OWN_FILES)
    app = Runner(settings, LateSandbox(settings), tokens, max_calls=max_calls)
    shown = address
    if not isinstance(address, UnixAddress):
        shown = type(address)(address.host, listeners[0].getsockname()[1])
    event(logger, logging.INFO, "listening", {"address": str(shown)})
    show(f"gradekeeper {__version__} runs Python graders at {shown}")
    try:
        Server(_config(app, settings, max_calls)).run(listeners)
    except SystemExit:
        raise CommandError(app.failure or "the runner cannot start") from None
    finally:
        for listener in listeners:
            listener.close()
        if isinstance(address, UnixAddress):
            with contextlib.suppress(OSError):
                os.unlink(address.path)  # noqa: PTH108 - a name as the kernel takes it
    return failures.OK


def _checked(settings: Settings) -> tuple[Address, TokenFile]:
    """Return where to listen and whom to trust.

    Raises:
        CommandError: The settings do not say, or would let in the whole network; or the
            environment holds the key of a judge.
    """
    found = [variable for variable in JUDGE_KEYS if environment().get(variable)]
    if found:
        raise CommandError(*(f"{key} is a key; do not give it to a runner" for key in found))
    try:
        address = parse_listen(settings.runner_listen)
        tokens = TokenFile(settings.sandbox_token_file)
    except TokenError as error:
        raise CommandError(f"{PREFIX}SANDBOX_TOKEN_FILE: {error}") from error
    except ValueError as error:
        raise CommandError(f"{PREFIX}RUNNER_LISTEN: {error}") from error
    if (
        not isinstance(address, UnixAddress)
        and address.host not in _LOOPBACK
        and tokens.is_open
        and not settings.allow_unauthenticated
    ):
        raise CommandError(
            f"refusing to listen on {address.host} without a token: set "
            f"{PREFIX}SANDBOX_TOKEN_FILE, or {PREFIX}ALLOW_UNAUTHENTICATED=true if the network "
            "lets nobody but the service through"
        )
    return address, tokens


def _bind(address: Address, settings: Settings) -> list[socket.socket]:
    if isinstance(address, UnixAddress):
        return [bind_unix(address.path, settings.backlog)]
    return bind_tcp(address.host, address.port, settings.backlog)


def _config(app: Runner, settings: Settings, max_calls: int) -> Config:
    return Config(
        app,
        interface="asgi3",
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        backlog=settings.backlog,
        limit_concurrency=max_calls + _OWN_FILES - _SPARE_FILES,
        timeout_keep_alive=settings.keep_alive_s,
        timeout_graceful_shutdown=settings.shutdown_grace_s,
    )
