"""``gradekeeper serve``: checks everything once, binds, and runs one or more worker processes."""

from __future__ import annotations

import argparse
import logging
import os
import resource
import socket
import tempfile

from uvicorn import Config

from service import __version__
from service.app import create_app
from service.cli import failures
from service.cli.listening import Server, bind_tcp
from service.cli.output import show
from service.cli.runtime import read_settings
from service.cli.supervisor import Workers, checked
from service.connections import bounded
from service.edge import Edge
from service.logs import configure, event
from service.metrics import MULTIPROCESS_DIR
from service.settings import PREFIX, Settings

EXIT_CODES = {
    failures.OK: "stopped by SIGTERM or SIGINT after finishing what was accepted",
    failures.UNUSABLE: "unusable settings, keys or definitions, or the address is taken",
}
_FLAGS = ("host", "port", "workers", "reload_definitions_s")
_DESCRIPTORS = 65_536

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments; each overrides its setting."""
    parser.add_argument("--host", help="address to listen on")
    parser.add_argument("--port", type=int, help="TCP port; 0 takes a free one")
    parser.add_argument("--workers", type=int, metavar="N", help="worker processes")
    parser.add_argument(
        "--reload-definitions",
        dest="reload_definitions_s",
        type=float,
        metavar="SECONDS",
        help="look for changed definitions this often; SIGHUP reads them at once",
    )


def run(arguments: argparse.Namespace) -> int:
    """Serve until a signal stops it."""
    for flag in _FLAGS:
        value = getattr(arguments, flag)
        if value is not None:
            os.environ[f"{PREFIX}{flag.upper()}"] = str(value)  # workers read the same settings
    settings = read_settings()
    configure(settings.log_level)
    _raise_descriptor_limit()
    app = checked(lambda: create_app(settings))
    sockets = bind(settings)
    url = _url(settings.host, sockets)
    event(logger, logging.INFO, "listening", {"url": url, "workers": settings.workers})
    show(f"gradekeeper {__version__} listens on {url} (API description: {url}/schema)")
    if settings.workers == 1:
        return _serve_here(app, settings, sockets)
    return _serve_in_workers(settings, sockets)


def _raise_descriptor_limit() -> None:
    """Take as many descriptors as the system lets us: each connection needs one.

    The limit that processes start with (1024 on most systems) is for programs that use ``select``.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _DESCRIPTORS)
    if soft < wanted and soft != resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def bind(settings: Settings) -> list[socket.socket]:
    """Return listening sockets, one for each address that the host's name has.

    Raises:
        CommandError: The address cannot be listened on.
    """
    return bind_tcp(settings.host, settings.port, settings.backlog)


def _url(host: str, sockets: list[socket.socket]) -> str:
    name = f"[{host}]" if ":" in host else host or "0.0.0.0"  # noqa: S104 - shown, not bound
    return f"http://{name}:{sockets[0].getsockname()[1]}"


def _config(app: Edge | str, settings: Settings) -> Config:
    return Config(
        app,
        factory=isinstance(app, str),
        interface="asgi3",
        workers=settings.workers,
        loop="uvloop",
        http=bounded(settings.receive_timeout_s),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=settings.trust_proxy_headers,
        forwarded_allow_ips="*",
        backlog=settings.backlog,
        timeout_keep_alive=settings.keep_alive_s,
        timeout_graceful_shutdown=settings.shutdown_grace_s,
        timeout_worker_healthcheck=10,
    )


def _serve_here(app: Edge, settings: Settings, sockets: list[socket.socket]) -> int:
    server = Server(_config(app, settings))
    try:
        server.run(sockets)
    except SystemExit:  # the application did not start; uvicorn has logged why
        return failures.UNUSABLE
    return failures.OK


def _serve_in_workers(settings: Settings, sockets: list[socket.socket]) -> int:
    with tempfile.TemporaryDirectory(prefix="gradekeeper-metrics-") as metrics_dir:
        os.environ[MULTIPROCESS_DIR] = metrics_dir
        workers = Workers(
            _config("service.cli.supervisor:worker_app", settings), sockets, metrics_dir
        )
        workers.run()
        del os.environ[MULTIPROCESS_DIR]
    return failures.UNUSABLE if workers.failed else failures.OK
