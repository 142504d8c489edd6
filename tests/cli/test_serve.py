"""``gradekeeper serve``: what it refuses, and a real process from start to stop."""

from __future__ import annotations

import argparse
import errno
import json
import multiprocessing
import os
import resource
import signal
import socket
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from uvicorn import Config
from uvicorn.supervisors.multiprocess import Process

from service import metric_files
from service.cli import listening, serve, supervisor
from service.cli.failures import CommandError
from service.connections import BoundedProtocol
from service.metrics import MULTIPROCESS_DIR
from service.settings import Settings
from tests.cli.conftest import Run
from tests.cli.world import (
    EXACT,
    NEAR,
    log_of,
    row,
    running,
    serving,
    stop,
    until,
    write_json,
)

SCORE = "/v1/graders/exact/versions/1/score"


@pytest.fixture(autouse=True)
def _logging(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the root logger to pytest."""
    monkeypatch.setattr(serve, "configure", lambda _: None)


def events(process: Any) -> list[dict[str, Any]]:
    """Return the log of a process that has ended."""
    return [json.loads(line) for line in log_of(process).splitlines()]


class TestRefusals:
    def test_every_finding_of_broken_definitions(self, run: Run, definitions: Path) -> None:
        write_json(definitions / "exact" / "1.json", {**EXACT, "operation": "same"})
        write_json(definitions / "near" / "1.json", {**NEAR, "input": "{{item.}}"})
        code, out, err = run("serve", "--port", "0")
        assert (code, out) == (2, "")
        assert err.startswith("gradekeeper: the definitions cannot be used:\n")
        assert f"{definitions}/exact/1.json#/operation: Invalid value" in err
        assert f"{definitions}/near/1.json#/input: " in err
        assert "Traceback" not in err

    def test_an_unusable_keys_file(self, run: Run, tmp_path: Path) -> None:
        os.environ["GRADEKEEPER_API_KEYS_FILE"] = str(write_json(tmp_path / "keys.json", {}))
        code, _, err = run("serve", "--port", "0")
        assert code == 2
        assert err.startswith("gradekeeper: the keys file is unusable: ")
        assert '[{"name": "…", "sha256": "…", "scopes": ["score"]}, …]' in err

    def test_an_open_address_without_keys(self, run: Run) -> None:
        code, _, err = run("serve", "--host", "0.0.0.0", "--port", "0")  # noqa: S104 - is refused
        assert code == 2
        assert err.startswith("gradekeeper: refusing to listen on 0.0.0.0 without any API key")

    def test_settings_that_no_adapter_can_be_built_from(self, run: Run) -> None:
        os.environ["GRADEKEEPER_JUDGE_BUDGETS_FILE"] = "/none.json"
        code, _, err = run("serve", "--port", "0")
        assert code == 2
        assert err == "gradekeeper: the budgets file cannot be read: No such file or directory\n"

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("--port", "65536"), "GRADEKEEPER_PORT: Expected `int` <= 65535"),
            (("--workers", "0"), "GRADEKEEPER_WORKERS: Expected `int` >= 1"),
            (("--reload-definitions", "-1"), "GRADEKEEPER_RELOAD_DEFINITIONS_S: Expected"),
            (("--port", "http"), "argument --port: invalid int value: 'http'"),
        ],
    )
    def test_a_flag_out_of_range(self, arguments: tuple[str, ...], message: str, run: Run) -> None:
        code, _, err = run("serve", *arguments)
        assert code == 2
        assert message in err

    def test_an_address_that_is_taken(self, run: Run) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            code, out, err = run("serve", "--port", port)
        assert (code, out) == (2, "")
        assert err == (
            f"gradekeeper: cannot listen on 127.0.0.1, port {port}: Address already in use\n"
        )


class TestBinding:
    def test_a_name_with_several_addresses_gets_one_port(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        addresses = [
            (socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", 0)),
            (socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.2", 0)),
        ]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: addresses)
        sockets = serve.bind(Settings(host="both", port=0))
        names = [listener.getsockname() for listener in sockets]
        for listener in sockets:
            listener.close()
        assert [host for host, _ in names] == ["127.0.0.1", "127.0.0.2"]
        assert len({port for _, port in names}) == 1

    def test_an_address_that_the_machine_lacks_is_passed_over(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        addresses = [
            (socket.AF_INET, socket.SOCK_STREAM, 0, "", ("192.0.2.1", 0)),
            (socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", 0)),
        ]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: addresses)
        (listener,) = serve.bind(Settings(host="half", port=0))
        with listener:
            assert listener.getsockname()[0] == "127.0.0.1"

    @pytest.mark.parametrize(
        ("addresses", "reason"),
        [
            ([], "no such address"),
            (
                [(socket.AF_INET, socket.SOCK_STREAM, 0, "", ("192.0.2.1", 0))],
                "Cannot assign requested address",
            ),
        ],
    )
    def test_no_address_at_all_is_an_error(
        self, addresses: list[Any], reason: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: addresses)
        with pytest.raises(CommandError, match=f"cannot listen on x, port 0: {reason}"):
            serve.bind(Settings(host="x", port=0))

    def test_an_unknown_name_is_an_error(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def unknown(*_: Any, **__: Any) -> None:
            raise socket.gaierror(-2, "Name or service not known")

        monkeypatch.setattr(socket, "getaddrinfo", unknown)
        with pytest.raises(CommandError, match="cannot listen on x, port 0: Name or service not"):
            serve.bind(Settings(host="x", port=0))


class TestComposition:
    """What `run` hands to uvicorn, without serving."""

    @pytest.fixture
    def configs(self, monkeypatch: pytest.MonkeyPatch) -> list[Config]:
        """The configurations of servers that were started and came to an end at once."""
        started: list[Config] = []

        def serve_nothing(server: Any, sockets: list[socket.socket] | None = None) -> None:
            started.append(server.config)
            for listener in sockets or server.sockets:
                listener.close()

        monkeypatch.setattr(listening.Server, "run", serve_nothing)
        monkeypatch.setattr(supervisor.Workers, "run", serve_nothing)
        monkeypatch.setattr(signal, "signal", lambda *_: None)
        return started

    def test_one_worker_serves_here_as_the_settings_ask(
        self, run: Run, configs: list[Config]
    ) -> None:
        os.environ.update(GRADEKEEPER_KEEP_ALIVE_S="9", GRADEKEEPER_SHUTDOWN_GRACE_S="8")
        os.environ.update(GRADEKEEPER_BACKLOG="7", GRADEKEEPER_WORKERS="2")
        os.environ["GRADEKEEPER_RECEIVE_TIMEOUT_S"] = "6.5"
        code, out, _ = run("serve", "--port", "0", "--workers", "1")
        (config,) = configs
        assert code == 0
        assert (config.loop, config.ws, config.lifespan) == ("uvloop", "none", "on")
        protocol: Any = config.http
        assert protocol.func is BoundedProtocol
        assert protocol.keywords == {"receive_timeout_s": 6.5}
        assert (config.timeout_keep_alive, config.timeout_graceful_shutdown) == (9, 8)
        assert (config.backlog, config.workers, config.factory) == (7, 1, False)
        off = (config.access_log, config.server_header, config.date_header, config.proxy_headers)
        assert not any(off)
        assert out.startswith("gradekeeper ")
        assert " listens on http://127.0.0.1:" in out
        assert out.endswith("/schema)\n")

    def test_several_workers_share_a_directory_of_metrics(
        self, run: Run, configs: list[Config]
    ) -> None:
        os.environ["GRADEKEEPER_TRUST_PROXY_HEADERS"] = "true"
        code, _, _ = run("serve", "--port", "0", "--workers", "3", "--reload-definitions", "2.5")
        (config,) = configs
        assert code == 0
        assert (config.workers, config.factory) == (3, True)
        assert config.app == "service.cli.supervisor:worker_app"
        assert config.proxy_headers
        assert "PROMETHEUS_MULTIPROC_DIR" not in os.environ
        assert os.environ["GRADEKEEPER_RELOAD_DEFINITIONS_S"] == "2.5"
        assert os.environ["GRADEKEEPER_WORKERS"] == "3"

    def test_workers_that_cannot_start_are_exit_code_2(
        self, run: Run, configs: list[Config], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def end(workers: supervisor.Workers) -> None:
            workers.failed = True
            workers.sockets[0].close()

        monkeypatch.setattr(supervisor.Workers, "run", end)
        assert run("serve", "--port", "0", "--workers", "2").code == 2

    def test_an_application_that_does_not_start_is_exit_code_2(
        self, run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(_: Any, sockets: list[socket.socket]) -> None:
            sockets[0].close()
            raise SystemExit(3)

        monkeypatch.setattr(listening.Server, "run", fail)
        assert run("serve", "--port", "0").code == 2

    @pytest.mark.parametrize(
        ("host", "shown"),
        [("::1", "[::1]"), ("127.0.0.1", "127.0.0.1"), ("", "0.0.0.0")],  # noqa: S104 - shown
    )
    def test_the_address_is_shown_as_a_url(self, host: str, shown: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            assert serve._url(host, [listener]) == f"http://{shown}:{port}"


@pytest.mark.integration
class TestOneWorker:
    def test_serves_and_finishes_what_it_accepted(self) -> None:
        words = " ".join(f"w{index}" for index in range(400))
        body = {"rows": [row(f"{words} {index}", words[::-1]) for index in range(5000)]}
        answers: list[httpx.Response] = []
        with serving() as (process, url):
            page = httpx.get(f"{url}/schema")
            assert (page.status_code, page.headers.get("server")) == (200, None)
            assert "date" not in page.headers
            batch = f"{url}/v1/graders/near/versions/1/score/batch"
            post = lambda: answers.append(httpx.post(batch, json=body, timeout=60))  # noqa: E731
            client = threading.Thread(target=post)
            client.start()
            until(lambda: "in_flight 1" in httpx.get(f"{url}/metrics").text)
            assert stop(process) == 0
            client.join(30)
            log = events(process)
        assert len(answers[0].json()["results"]) == 5000
        names = [line["event"] for line in log]
        assert names.index("listening") < names.index("ready") < names.index("stopped")
        assert next(line for line in log if line["event"] == "listening")["url"] == url

    def test_flags_win_definitions_are_reloaded_and_an_interrupt_stops_it(
        self, definitions: Path
    ) -> None:
        flags = ("--reload-definitions", "0.05")
        environment = {"GRADEKEEPER_PORT": "1", "GRADEKEEPER_RELOAD_DEFINITIONS_S": "0"}
        with serving(*flags, **environment) as (process, url):
            assert httpx.get(f"{url}/v1/graders/exact/versions/3").status_code == 404
            write_json(definitions / "exact" / "3.json", EXACT)
            until(lambda: httpx.get(f"{url}/v1/graders/exact/versions/3").is_success)
            assert stop(process, signal.SIGINT) == 0

    def test_a_sandbox_that_is_required_and_cannot_run_stops_it(self, tmp_path: Path) -> None:
        environment = {"GRADEKEEPER_SANDBOX": "required"}
        environment["GRADEKEEPER_SANDBOX_IMAGES_DIR"] = str(tmp_path)
        with running("serve", "--port", "0", **environment) as process:
            assert process.wait(40) == 2
            assert "no grader image is built" in log_of(process)

    def test_has_all_the_descriptors_that_it_may_have(self) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 256), hard))
        try:
            with serving() as (process, _):
                found = psutil.Process(process.pid).rlimit(psutil.RLIMIT_NOFILE)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert found == (min(hard, 65_536), hard)

    def test_a_refusal_is_a_line_on_standard_error(self, definitions: Path) -> None:
        (definitions / "near" / "1.json").write_text("{")
        with running("serve", "--port", "0") as process:
            assert process.wait(40) == 2
            log = log_of(process)
        assert log.startswith("gradekeeper: the definitions cannot be used:\n")


@pytest.mark.integration
class TestSeveralWorkers:
    def test_share_metrics_hear_hangups_are_replaced_and_stop_together(
        self, tmp_path: Path
    ) -> None:
        with serving("--workers", "2", TMPDIR=str(tmp_path)) as (process, url):
            parent = psutil.Process(process.pid)
            until(lambda: len(workers_of(parent)) == 2)
            (metrics_dir,) = tmp_path.glob("gradekeeper-metrics-*")
            until(lambda: series(url, 'definitions_reloads_total{outcome="ok"}') is None)
            for _ in range(40):
                assert httpx.post(f"{url}{SCORE}", json=row("a", "a")).json()["reward"] == 1.0
            until(
                lambda: series(url, 'grades_total{grader="exact",outcome="ok",version="1"}') == 40
            )

            until(lambda: ready_workers(metrics_dir) >= 2)
            process.send_signal(signal.SIGHUP)
            until(lambda: series(url, 'definitions_reloads_total{outcome="ok"}') == 2)

            victim = workers_of(parent)[0]
            victim.kill()
            until(lambda: victim.pid not in {worker.pid for worker in workers_of(parent)})
            until(lambda: len(workers_of(parent)) == 2)
            assert httpx.get(f"{url}/healthz", timeout=20).is_success
            until(lambda: not list(metrics_dir.glob(f"gauge_live*_{victim.pid}.db")))
            for worker in workers_of(parent):  # as a terminal does with all of them
                worker.send_signal(signal.SIGINT)
            assert stop(process, signal.SIGINT) == 0
            assert "replacing a worker that died" in {line["event"] for line in events(process)}
        assert list(tmp_path.iterdir()) == [tmp_path / "definitions"]

    def test_workers_end_with_a_supervisor_that_was_killed(self) -> None:
        with serving("--workers", "2") as (process, url):
            children = psutil.Process(process.pid).children()
            process.kill()
            _, alive = psutil.wait_procs(children, timeout=15)
            assert alive == []
            with pytest.raises(httpx.ConnectError):
                httpx.get(f"{url}/healthz")


def workers_of(parent: psutil.Process) -> list[psutil.Process]:
    """Return the worker processes, without multiprocessing's resource tracker."""
    return [child for child in parent.children() if "spawn_main" in " ".join(cmdline(child))]


def cmdline(process: psutil.Process) -> list[str]:
    """Return the command line, empty for a process that is gone."""
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def ready_workers(metrics_dir: Path) -> int:
    """Return how many workers have started to count."""
    files = [path.read_bytes() for path in metrics_dir.glob("gauge_livesum_*.db")]
    return sum(any(content) for content in files)


def series(url: str, name: str) -> float | None:
    """Return the value of a series of ours, over all workers."""
    for line in httpx.get(f"{url}/metrics", timeout=20).text.splitlines():
        if line.startswith(f"gradekeeper_{name} "):
            return float(line.rpartition(" ")[2])
    return None


class FakeProcess:
    """A worker that is what the test says."""

    def __init__(
        self, pid: int, *, ready: bool = True, alive: bool = True, exitcode: int | None = None
    ) -> None:
        self.pid = pid
        self.ready = ready
        self.alive = alive
        self.exitcode = exitcode

    def is_ready(self, timeout: float) -> bool:
        return self.ready

    def is_alive(self, timeout: float) -> bool:
        return self.alive

    def kill(self) -> None:
        pass

    join = kill


class TestSupervisor:
    @pytest.fixture
    def workers(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
        """A supervisor whose processes nobody started, and which starts none."""
        monkeypatch.setattr(signal, "signal", lambda *_: None)
        workers = supervisor.Workers(Config("none:app", workers=2), [], str(tmp_path))
        monkeypatch.setattr(workers, "_started", lambda: FakeProcess(99))
        return workers

    @pytest.fixture
    def sent(self, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
        """The signals that were sent."""
        signals: list[tuple[int, int]] = []
        monkeypatch.setattr(os, "kill", lambda pid, number: signals.append((pid, number)))
        return signals

    def test_a_hangup_waits_for_workers_that_are_starting(
        self, workers: Any, sent: list[tuple[int, int]]
    ) -> None:
        started, starting = FakeProcess(11), FakeProcess(12, ready=False)
        workers.processes = [started, starting]
        workers.handle_hup()
        assert sent == [(11, signal.SIGHUP)]
        starting.ready = True
        workers.keep_subprocess_alive()
        workers.keep_subprocess_alive()
        assert sent == [(11, signal.SIGHUP), (12, signal.SIGHUP)]

    def test_a_dead_worker_is_replaced_and_its_gauges_dropped(
        self, workers: Any, tmp_path: Path
    ) -> None:
        dropped, kept = tmp_path / "gauge_livesum_11.db", tmp_path / "gauge_livesum_13.db"
        dropped.touch()
        kept.touch()
        workers.processes = [FakeProcess(11, alive=False, exitcode=-9), FakeProcess(13)]
        workers.keep_subprocess_alive()
        assert [process.pid for process in workers.processes] == [99, 13]
        assert not dropped.exists()
        assert kept.exists()

    def test_a_worker_that_cannot_start_stops_the_service(
        self, workers: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        workers.processes = [FakeProcess(11, alive=False, exitcode=3)]
        workers.keep_subprocess_alive()
        assert workers.should_exit.is_set()
        assert workers.failed
        assert caplog.messages == ["stopping: a worker cannot start"]

    def test_a_supervisor_that_stops_replaces_nobody(self, workers: Any) -> None:
        workers.processes = [FakeProcess(11, alive=False, exitcode=0)]
        workers.should_exit.set()
        workers.keep_subprocess_alive()
        assert [process.pid for process in workers.processes] == [11]

    def test_a_worker_is_alive_while_it_answers(self) -> None:
        worker = supervisor._Worker(Config("none:app"), [])
        reader, writer = multiprocessing.Pipe()
        lives = [False, True, True, True, True]
        worker.process = argparse.Namespace(  # type: ignore[assignment] # a stand-in
            is_alive=lambda: lives.pop(0), sentinel=reader
        )
        assert not worker.is_alive()
        assert not worker.is_alive(timeout=0)
        worker.child_conn.send(False)
        assert worker.is_alive(timeout=1)
        writer.send("gone")
        assert not worker.is_alive(timeout=60)
        worker.parent_conn.close()
        assert not worker.is_alive(timeout=60)
        for end in (reader, writer, worker.child_conn):
            end.close()

    def test_the_number_of_workers_stays(self, workers: Any) -> None:
        workers.init_processes()
        for name in ("TTIN", "TTOU", "TTOU"):
            workers.signal_queue.append(getattr(signal, f"SIG{name}"))
        workers.handle_signals()
        assert [process.pid for process in workers.processes] == [99, 99]

    def test_a_worker_has_its_server_before_anybody_asks(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: list[Any] = []
        monkeypatch.setattr(Process, "target", lambda self, _: seen.append(self._server))
        worker = supervisor._Worker(Config("none:app"), [])
        worker.target()
        assert seen == [worker.server]

    def test_a_worker_is_started(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setattr(signal, "signal", lambda *_: None)
        started: list[Any] = []
        monkeypatch.setattr(Process, "start", lambda self: started.append(self.process))
        workers = supervisor.Workers(Config("none:app", workers=2), [], str(tmp_path))
        workers.init_processes()
        assert started == [worker.process for worker in workers.processes]
        assert len(started) == 2

    def test_listeners_close_before_the_workers_are_told_to_stop(self, workers: Any) -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        workers.sockets = [listener]
        workers.terminate_all()
        assert listener.fileno() == -1

    @pytest.fixture
    def metrics_dir(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """Where workers share their metrics."""
        monkeypatch.setattr("service.app.configure", lambda _: None)
        directory = tmp_path / "metrics"
        directory.mkdir()
        monkeypatch.setenv(MULTIPROCESS_DIR, str(directory))
        return directory

    def test_a_worker_has_the_application_and_room_for_its_metrics(self, metrics_dir: Path) -> None:
        assert callable(supervisor.worker_app())
        status = (metrics_dir / f"counter_{os.getpid()}.db").stat()
        assert status.st_size == metric_files.COUNTER_BYTES
        assert status.st_blocks * 512 >= status.st_size  # a sparse file has none
        assert len(list(metrics_dir.iterdir())) == 13

    def test_a_worker_without_room_for_its_metrics_says_so_and_ends(
        self,
        metrics_dir: Path,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        def full(*_: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "posix_fallocate", full)
        with pytest.raises(SystemExit, match="1"):
            supervisor.worker_app()
        (record,) = caplog.records
        assert record.message == "worker cannot start"
        assert vars(record)["fields"]["findings"] == [
            "no room for metrics: No space left on device"
        ]

    def test_a_worker_that_cannot_start_says_why_and_ends(
        self, definitions: Path, metrics_dir: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        (definitions / "near" / "1.json").write_text("{")
        with pytest.raises(SystemExit, match="1"):
            supervisor.worker_app()
        assert "worker cannot start" in caplog.messages

    def test_a_worker_follows_its_supervisor(
        self, sent: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        parent = argparse.Namespace(join=lambda: time.sleep(0.01))
        monkeypatch.setattr(multiprocessing, "parent_process", lambda: parent)
        supervisor._stop_with_parent()
        assert sent == [(os.getpid(), signal.SIGTERM)]

    def test_a_worker_without_a_supervisor_goes_on(self, sent: list[tuple[int, int]]) -> None:
        supervisor._stop_with_parent()
        assert sent == []


def test_a_graceful_stop_leaves_no_signal_to_die_of() -> None:
    server = listening.Server(Config("none:app"))
    server.handle_exit(signal.SIGTERM, None)
    assert server.should_exit
    assert server._captured_signals == []
