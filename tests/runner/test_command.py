"""The command ``gradekeeper runner``: what it refuses, what it shows, and who may ask it."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from graders.errors import SandboxUnavailableError
from service.cli import failures, health, listening, main, pid1, runner
from service.cli.failures import CommandError
from service.settings import Settings, SettingsError
from tests.api.world import metric, serving
from tests.runner.world import HALF, asking, command, log_of, not_for_a_runner, question, running
from tests.sandbox import image

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]


@pytest.fixture
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if not_for_a_runner(name)]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(runner, "configure", lambda _: None)


class TestSettings:
    @pytest.mark.parametrize(
        "name", ["API_KEY", "API_KEYS_FILE", "REDIS_URL", "JUDGE_ROUTES_FILE", "SANDBOX_URL"]
    )
    def test_those_of_a_service_are_refused(self, name: str) -> None:
        variable = f"GRADEKEEPER_{name}"
        with pytest.raises(SettingsError) as caught:
            Settings.from_environment({variable: "secret-value"}, runner=True)
        assert str(caught.value) == f"{variable} is no setting of a runner; do not give it to one"

    def test_its_own_are_taken_and_misspelt_ones_are_not(self) -> None:
        found = Settings.from_environment(
            {"GRADEKEEPER_SANDBOX_SLOTS": "3", "GRADEKEEPER_RUNNER_LISTEN": "unix:/x"}, runner=True
        )
        assert (found.sandbox_slots, found.runner_listen) == (3, "unix:/x")
        with pytest.raises(SettingsError, match="did you mean GRADEKEEPER_SANDBOX_SLOTS"):
            Settings.from_environment({"GRADEKEEPER_SANDBOX_SLOT": "3"}, runner=True)


@pytest.mark.usefixtures("_clean")
class TestRefusals:
    @pytest.mark.parametrize(
        ("variables", "problem"),
        [
            ({"RUNNER_LISTEN": "8081"}, "RUNNER_LISTEN: expected unix:/absolute/path or host:port"),
            ({"RUNNER_LISTEN": "0.0.0.0:0"}, "refusing to listen on 0.0.0.0 without a token"),
            ({"SANDBOX_TOKEN_FILE": "/none"}, "SANDBOX_TOKEN_FILE: the token file cannot be read"),
            ({"API_KEY": "x"}, "GRADEKEEPER_API_KEY is no setting of a runner"),
            ({"RUNNER_LISTEN": "unix:/none/such/runner.sock"}, "there is no directory /none/such"),
            ({"RUNNER_LISTEN": "unix:/" + "x" * 200}, "too long"),
        ],
    )
    def test_are_one_sentence(
        self,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        variables: dict[str, str],
        problem: str,
    ) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(f"GRADEKEEPER_{name}", value)
        assert main(["runner"]) == failures.UNUSABLE
        assert problem in capsys.readouterr().err

    @pytest.mark.parametrize("variable", ["OPENAI_API_KEY", "AZURE_OPENAI_API_KEY"])
    def test_keys_of_judges_are_named_and_not_shown(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], variable: str
    ) -> None:
        monkeypatch.setenv(variable, "sk-secret-value")
        assert main(["runner"]) == failures.UNUSABLE
        err = capsys.readouterr().err
        assert f"{variable} is a key; do not give it to a runner" in err
        assert "secret-value" not in err

    def test_an_empty_variable_is_no_key(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OPENAI_API_KEY", "")
        address, _ = runner._checked(Settings(runner_listen="unix:/x"))
        assert str(address) == "unix:/x"

    def test_a_key_of_a_judge_ends_it_before_it_listens(self, tmp_path: Path) -> None:
        path = tmp_path / "runner.sock"
        with command("--listen", f"unix:{path}", OPENAI_API_KEY="sk-secret-value") as started:
            code, out, err = started.end(None)
        assert (code, out) == (failures.UNUSABLE, "")
        assert "OPENAI_API_KEY is a key; do not give it to a runner" in err
        assert "secret-value" not in err
        assert not path.exists()

    def test_a_network_of_one_s_own_needs_no_token(self) -> None:
        settings = Settings(runner_listen="0.0.0.0:0", allow_unauthenticated=True)
        address, tokens = runner._checked(settings)
        assert (str(address), tokens.is_open) == ("0.0.0.0:0", True)

    def test_too_weak_an_isolation_ends_it_with_the_reason(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("GRADEKEEPER_SANDBOX_IMAGES_DIR", str(tmp_path))
        path = tmp_path / "runner.sock"
        assert main(["runner", "--listen", f"unix:{path}"]) == failures.UNUSABLE
        assert "no grader image is built" in capsys.readouterr().err
        assert not path.exists()


class TestSocket:
    def test_is_for_owner_and_group_and_replaces_what_nobody_listens_on(
        self, tmp_path: Path
    ) -> None:
        path = tmp_path / "s"
        for _ in range(2):
            with listening.bind_unix(str(path), 5):
                assert stat.S_IMODE(path.stat().st_mode) == 0o660
                with pytest.raises(CommandError, match="Address already in use"):
                    listening.bind_unix(str(path), 5)

    def test_never_replaces_a_file(self, tmp_path: Path) -> None:
        path = tmp_path / "file"
        path.write_text("mine")
        with pytest.raises(CommandError, match="Address already in use"):
            listening.bind_unix(str(path), 5)
        assert path.read_text() == "mine"


async def test_over_tcp_it_says_where_and_ends_cleanly() -> None:
    with command("--listen", "127.0.0.1:0") as started:
        assert started.process.stdout is not None
        line = started.process.stdout.readline()
        address = line.split()[-1]
        async with asking(f"http://{address}") as remote:
            await remote.started()
            assert (await remote.run(question())).value == 0.5
        code, _, err = started.end()
    assert code == 0
    assert [e["event"] for e in log_of(err) if e["logger"] == "service.runner"] == [
        "ready",
        "stopped",
    ]


class TestRoutes:
    async def test_show_what_the_sandbox_does_and_nothing_else(self, tmp_path: Path) -> None:
        async with running(tmp_path) as live, asking(live.url) as remote, live.client() as client:
            await remote.run(question())
            assert (await client.get("/healthz")).json() == {"status": "ok"}
            ready = await client.get("/readyz")
            text = (await client.get("/metrics")).text
            assert (await client.get("/v1/run")).status_code == 404
            assert (await client.post("/v1/graders")).status_code == 404
        assert (ready.status_code, ready.json()["ready"]) == (200, True)
        assert metric(text, 'gradekeeper_sandbox_calls_total{outcome="value"}') == 1
        series = {line.split()[2] for line in text.splitlines() if line.startswith("# HELP")}
        assert "gradekeeper_sandbox_waiting" in series
        assert all(name.startswith("gradekeeper_sandbox_") for name in series)

    async def test_refuse_what_is_no_question(self, tmp_path: Path) -> None:
        async def chunks() -> AsyncIterator[bytes]:
            yield b"x"

        async with running(tmp_path) as live, live.client() as client:
            garbage = await client.post("/v1/run", content=b"\xff")
            chunked = await client.post("/v1/run", content=chunks())
        assert (garbage.status_code, chunked.status_code) == (400, 400)

    async def test_a_fault_of_ours_is_unavailable_and_logged(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def fail(*_: object) -> None:
            raise ZeroDivisionError

        async with running(tmp_path) as live, asking(live.url) as remote:
            monkeypatch.setattr(live.sandbox, "run", fail)
            with pytest.raises(SandboxUnavailableError) as caught:
                await remote.run(question())
        assert (caught.value.kind, caught.value.retryable) == ("runner_error", True)
        assert "ZeroDivisionError" in caplog.text


class TestToken:
    async def test_is_asked_for_and_can_change(self, tmp_path: Path) -> None:
        ours, theirs = tmp_path / "ours", tmp_path / "theirs"
        ours.write_text("old\n")
        theirs.write_text("new\nold\n")
        async with running(tmp_path, sandbox_token_file=str(theirs)) as live:
            async with asking(live.url, str(ours)) as remote:
                assert (await remote.run(question())).value == 0.5
                theirs.write_text("new\n")
                await asyncio.sleep(1.1)
                with pytest.raises(SandboxUnavailableError, match="another token") as caught:
                    await remote.run(question())
                ours.write_text("new\n")
                await asyncio.sleep(1.1)
                assert (await remote.run(question())).value == 0.5
            async with asking(live.url) as without:
                with pytest.raises(SandboxUnavailableError) as caught:
                    await without.run(question())
        assert caught.value.kind == "unauthorized"

    async def test_that_is_refused_is_away_until_it_is_right(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("INFO", "service.sandbox.remote")
        ours, theirs = tmp_path / "ours", tmp_path / "theirs"
        ours.write_text("wrong-secret\n")
        theirs.write_text("right\n")
        async with (
            running(tmp_path, sandbox_token_file=str(theirs)) as live,
            asking(live.url, str(ours), patience_s=0.1) as remote,
        ):
            found = await remote.check()
            assert (found["state"], found["reason"]) == (
                "away",
                "the runner of Python graders expects another token",
            )
            assert remote.stats().away is True
            with pytest.raises(SandboxUnavailableError) as caught:
                await remote.run(question())
            assert (caught.value.kind, remote.stats().away) == ("unauthorized", True)
            with pytest.raises(SandboxUnavailableError, match="another token"):
                await remote.started()
            ours.write_text("right\n")
            await asyncio.sleep(1.1)
            assert (await remote.check())["state"] == "running"
            assert remote.stats().away is False
        messages = [record.getMessage() for record in caplog.records]
        events = [message for message in messages if "the runner is" in message]
        assert events == ["the runner is away", "the runner is back"]
        assert "wrong-secret" not in caplog.text

    async def test_a_call_that_is_refused_counts_as_away(self, tmp_path: Path) -> None:
        theirs = tmp_path / "theirs"
        theirs.write_text("right\n")
        async with (
            running(tmp_path, sandbox_token_file=str(theirs)) as live,
            asking(live.url) as remote,
        ):
            with pytest.raises(SandboxUnavailableError, match="another token"):
                await remote.run(question())
            assert remote.stats().away is True

    async def test_probes_need_none_and_are_told_that_they_have_none(self, tmp_path: Path) -> None:
        theirs = tmp_path / "theirs"
        theirs.write_text("right\n")
        right = {"Authorization": "Bearer right"}
        async with (
            running(tmp_path, sandbox_token_file=str(theirs)) as live,
            live.client() as client,
        ):
            found = [await client.get("/readyz", headers=h) for h in ({}, right)]
        assert [reply.status_code for reply in found] == [200, 200]
        assert [reply.json()["authorized"] for reply in found] == [False, True]


@pytest.mark.usefixtures("_clean")
class TestHealth:
    async def test_of_a_runner(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        async with running(tmp_path) as live:
            monkeypatch.setenv("GRADEKEEPER_RUNNER_LISTEN", f"unix:{live.path}")
            assert await asyncio.to_thread(main, ["health", "--runner"]) == failures.OK
            monkeypatch.setenv("GRADEKEEPER_RUNNER_LISTEN", "nowhere")
            assert await asyncio.to_thread(main, ["health", "--runner"]) == failures.UNUSABLE

    def test_of_a_service(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with serving(Settings(definitions=str(tmp_path), sandbox="off", access_log=False)) as live:
            monkeypatch.setenv("GRADEKEEPER_PORT", str(live.port))
            monkeypatch.setenv("GRADEKEEPER_HOST", "0.0.0.0")  # noqa: S104 - asked, not bound
            assert main(["health"]) == failures.OK

    def test_of_nobody(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            monkeypatch.setenv("GRADEKEEPER_PORT", str(listener.getsockname()[1]))
            monkeypatch.setattr(health, "_TIMEOUT_S", 0.1)
            assert main(["health"]) == failures.UNREACHABLE
        assert "no answer at 127.0.0.1" in capsys.readouterr().err

    async def test_of_somebody_else(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n")
            writer.close()

        async with await asyncio.start_server(handle, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            monkeypatch.setenv("GRADEKEEPER_PORT", str(port))
            assert await asyncio.to_thread(main, ["health"]) == failures.UNREACHABLE
        assert "answered 503" in capsys.readouterr().err


class TestService:
    """The whole service with its sandbox elsewhere."""

    async def test_scores_shows_and_counts(self, tmp_path: Path) -> None:
        grader = {"type": "python", "name": "g", "source": HALF, "image_tag": image.TAG}
        body = {"grader": grader, "item": {}, "model_sample": "x"}
        run = "/v1/fine_tuning/alpha/graders/run"
        async with running(tmp_path) as live:
            variables = _service(tmp_path, live.url)
            async with _serving(variables) as client:
                assert (await client.post(run, json=body)).json()["reward"] == 0.5
                ready = (await client.get("/readyz")).json()
                text = (await client.get("/metrics")).text
        sandbox = ready["dependencies"]["sandbox"]
        assert (sandbox["state"], sandbox["runner"]) == ("running", live.url)
        assert metric(text, 'gradekeeper_runner_calls_total{outcome="answered"}') == 1
        assert metric(text, 'gradekeeper_sandbox_calls_total{outcome="value"}') == 0

    async def test_without_its_runner_everything_else_goes_on(self, tmp_path: Path) -> None:
        native = "/v1/graders/citation-f1/versions/latest/score"
        row = {"item": {"reference_citations": ["a"]}, "model_sample": "[a]"}
        async with _serving(_service(tmp_path, f"unix://{tmp_path}/none")) as client:
            ready = await client.get("/readyz")
            refused = await client.post(native, json=row)
            exact = "/v1/graders/exact-answer/versions/latest/score"
            fine = await client.post(exact, json={"item": {"answer": "a"}, "model_sample": "a"})
            text = (await client.get("/metrics")).text
        assert ready.json()["dependencies"]["sandbox"]["state"] == "away"
        assert (ready.status_code, refused.status_code, fine.json()["reward"]) == (200, 503, 1.0)
        assert refused.headers["retry-after"] == "1"
        assert metric(text, "gradekeeper_runner_away") == 1


def _service(tmp_path: Path, url: str) -> Settings:
    return Settings(sandbox_url=url, access_log=False)


def _serving(settings: Settings) -> _Served:
    return _Served(settings)


class _Served:
    """The service with the adapters that its settings ask for."""

    def __init__(self, settings: Settings) -> None:
        from service.app import create_app

        self._app = create_app(settings)
        self._client = httpx.AsyncClient(
            transport=httpx.ASGITransport(app=self._app), base_url="http://gradekeeper"
        )

    async def __aenter__(self) -> httpx.AsyncClient:
        return self._client

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()


_MINDING = """
import ctypes, os, subprocess, sys, time
ctypes.CDLL(None).prctl(36, 1)  # orphans come to this process, as they do to process 1
from service.cli import pid1
pid1.mind_child()
{child}
"""
_ORPHAN = """
if os.fork() == 0:
    if os.fork() == 0:
        time.sleep(0.3)
    os._exit(0)
os.wait()
time.sleep(1)
def stat(pid):
    try:
        return open(f'/proc/{pid}/stat').read()
    except OSError:  # others end while we look
        return ''
sys.exit(sum(f' Z {os.getppid()} ' in stat(pid) for pid in os.listdir('/proc') if pid.isdigit()))
"""
_SIGNALS = """
import signal
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
print('ready', flush=True)
while True:  # a signal just before a long sleep would be seen after it
    time.sleep(0.05)
"""


class TestPid1:
    """Process 1 itself is the subject of deploy/verify-image; here a process that acts like it."""

    @pytest.mark.parametrize(
        ("child", "code"),
        [
            ("sys.exit(5)", 5),
            ("os.kill(os.getpid(), 9)", 137),
            ("import signal; os.kill(os.getpid(), signal.SIGTERM)", 143),
            (_ORPHAN, 0),
        ],
        ids=["exit code", "killed", "ended", "orphans are reaped"],
    )
    def test_ends_like_its_child(self, child: str, code: int) -> None:
        done = subprocess.run(
            [sys.executable, "-c", _MINDING.format(child=child)], timeout=30, check=False
        )
        assert done.returncode == code

    def test_passes_signals_on(self) -> None:
        with subprocess.Popen(
            [sys.executable, "-c", _MINDING.format(child=_SIGNALS)], stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 7

    def test_any_command_that_is_process_1_leaves_a_small_one_behind(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        minded: list[str] = []
        monkeypatch.setattr(os, "getpid", lambda: 1)
        monkeypatch.setattr(pid1, "mind_child", lambda: minded.append("once"))
        with pytest.raises(SystemExit):
            main(["--version"])
        assert minded == ["once"]
        code = "import sys, service.cli.pid1; print(*sys.modules)"
        found = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
        assert {b"asyncio", b"graders", b"service.sandbox"} & set(found.stdout.split()) == set()
