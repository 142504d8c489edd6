"""Worker processes: uvicorn's supervisor with our meaning of SIGHUP, and metrics that follow."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import socket
import threading
from collections.abc import Callable
from multiprocessing import connection

from prometheus_client.multiprocess import mark_process_dead
from uvicorn import Config, Server
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors.multiprocess import Multiprocess, Process

from service import metric_files
from service.adapters import AdapterError
from service.app import StartError, app_from_environment
from service.cli.failures import CommandError
from service.cli.runtime import explained
from service.edge import Edge
from service.logs import event
from service.metrics import MULTIPROCESS_DIR

logger = logging.getLogger(__name__)


class _Worker(Process):
    """A worker process whose health checks can be relied on.

    uvicorn creates the server in whichever thread asks first, so the thread that answers health
    checks may look at another server than the one that runs; and it waits for the answer of a
    worker that has died meanwhile.
    """

    def target(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve; runs in the worker process."""
        self._server = Server(config=self.config)
        super().target(sockets)

    def is_alive(self, timeout: float = 5) -> bool:
        """Return whether the worker lives and answers in time."""
        if not self.process.is_alive():
            return False
        try:
            self.parent_conn.send(b"ping")
            told = connection.wait([self.parent_conn, self.process.sentinel], timeout)
            return self.parent_conn in told and self.parent_conn.recv() is not None
        except (OSError, EOFError):
            return False


class Workers(Multiprocess):
    """Runs the workers, replaces those that die, and passes SIGHUP on instead of restarting.

    Attributes:
        failed: Whether a worker showed that none can start.
    """

    def __init__(self, config: Config, sockets: list[socket.socket], metrics_dir: str) -> None:
        """Serve ``sockets``; the workers' metrics are files in ``metrics_dir``."""
        super().__init__(config, sockets)
        self.failed = False
        self._metrics_dir = metrics_dir
        self._to_refresh: set[int | None] = set()

    def init_processes(self) -> None:
        """Start the workers."""
        self.processes = [self._started() for _ in range(self.processes_num)]

    def _started(self) -> Process:
        process = _Worker(self.config, self.sockets)
        # A terminal interrupts all of us; a worker that still imports leaves that to its parent.
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        process.start()
        signal.signal(signal.SIGINT, before)
        return process

    def handle_hup(self) -> None:
        """Have every worker read keys and definitions again."""
        self._to_refresh = {process.pid for process in self.processes}
        self._refresh()

    def handle_ttin(self) -> None:
        """Keep the number of workers."""

    def handle_ttou(self) -> None:
        """Keep the number of workers."""

    def keep_subprocess_alive(self) -> None:
        """Replace dead workers, unless they show that none can start; pass on a late SIGHUP."""
        for index, process in enumerate(self.processes):
            if self.should_exit.is_set():
                return
            if process.is_alive(timeout=self.config.timeout_worker_healthcheck):
                continue
            process.kill()
            process.join()
            mark_process_dead(process.pid, path=self._metrics_dir)  # type: ignore[no-untyped-call]
            fields = {"pid": process.pid, "exit_code": process.exitcode}
            if process.exitcode == STARTUP_FAILURE:
                event(logger, logging.ERROR, "stopping: a worker cannot start", fields)
                self.failed = True
                self.should_exit.set()
                return
            event(logger, logging.WARNING, "replacing a worker that died", fields)
            self.processes[index] = self._started()
        self._refresh()

    def _refresh(self) -> None:
        """Pass SIGHUP on to workers that are ready; one that has not started would die of it."""
        for process in self.processes:
            pid = process.pid
            if pid is not None and pid in self._to_refresh and process.is_ready(timeout=1):
                os.kill(pid, signal.SIGHUP)
                self._to_refresh.discard(pid)
        self._to_refresh &= {process.pid for process in self.processes}

    def terminate_all(self) -> None:
        """Stop taking connections, then let the workers finish what they have accepted."""
        for listener in self.sockets:
            listener.close()
        super().terminate_all()


def checked(make: Callable[[], Edge]) -> Edge:
    """Return the application that ``make`` makes.

    Raises:
        CommandError: It cannot be served.
    """
    try:
        with explained():
            return make()
    except (AdapterError, StartError) as error:
        raise CommandError(str(error)) from error


def worker_app() -> Edge:
    """Return the application of one worker process; the factory that uvicorn calls there.

    A worker that cannot start (definitions that broke since the parent looked) ends and is tried
    again, while the others go on.
    """
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    try:
        _reserve_metric_files()
        return checked(app_from_environment)
    except CommandError as error:
        event(logger, logging.ERROR, "worker cannot start", {"findings": list(error.lines)})
        raise SystemExit(1) from error


def _reserve_metric_files() -> None:
    try:
        metric_files.reserve(os.environ[MULTIPROCESS_DIR])
    except OSError as error:
        raise CommandError(f"no room for metrics: {error.strerror}") from error


def _stop_with_parent() -> None:
    """End this worker as SIGTERM does once the supervisor is gone, however that came about."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
