"""Worker processes: uvicorn's supervisor with our meaning of SIGHUP, and metrics that follow."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import socket
import threading

from prometheus_client.multiprocess import mark_process_dead
from uvicorn import Config
from uvicorn.supervisors.multiprocess import Multiprocess

from service.app import app_from_environment
from service.cli.failures import CommandError
from service.cli.runtime import explained
from service.edge import Edge
from service.logs import event

logger = logging.getLogger(__name__)


class Workers(Multiprocess):
    """Runs the workers, replaces those that die, and passes SIGHUP on instead of restarting."""

    def __init__(self, config: Config, sockets: list[socket.socket], metrics_dir: str) -> None:
        """Serve ``sockets``; the workers' metrics are files in ``metrics_dir``."""
        super().__init__(config, sockets)
        self._metrics_dir = metrics_dir
        self._to_refresh: set[int | None] = set()

    def handle_hup(self) -> None:
        """Have every worker read keys and definitions again."""
        self._to_refresh = {process.pid for process in self.processes}

    def keep_subprocess_alive(self) -> None:
        """Replace dead workers, drop their gauges, and pass SIGHUP on to those that are ready."""
        before = list(self.processes)
        super().keep_subprocess_alive()
        for process in before:
            if process not in self.processes and process.pid is not None:
                mark_process_dead(process.pid, path=self._metrics_dir)  # type: ignore[no-untyped-call]
                event(logger, logging.WARNING, "worker replaced", {"pid": process.pid})
        for process in self.processes if self._to_refresh else ():
            # A worker that has not started yet would die of the signal.
            if process.pid in self._to_refresh and process.is_ready():
                os.kill(process.pid or 0, signal.SIGHUP)
                self._to_refresh.discard(process.pid)
        self._to_refresh &= {process.pid for process in self.processes}

    def terminate_all(self) -> None:
        """Stop taking connections, then let the workers finish what they have accepted."""
        for listener in self.sockets:
            listener.close()
        super().terminate_all()


def worker_app() -> Edge:
    """Return the application of one worker process; the factory that uvicorn calls there.

    A worker that cannot start (definitions that broke since the parent looked) ends and is tried
    again, while the others go on.
    """
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    try:
        with explained():
            return app_from_environment()
    except CommandError as error:
        event(logger, logging.ERROR, "worker cannot start", {"findings": list(error.lines)})
        raise SystemExit(1) from error


def _stop_with_parent() -> None:
    """End this worker as SIGTERM does once the supervisor is gone, however that came about."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
