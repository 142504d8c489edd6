"""What goes wrong between service and runner is typed, and never a score."""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from graders.errors import InputTooLongError, OverloadedError, SandboxUnavailableError
from service import runner as runner_module
from service.sandbox.messages import MEDIA_TYPE, Done
from service.sandbox.remote import RemoteSandbox
from tests.runner.world import SLEEP, Command, asking, command, question, running, until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]


def listening(tmp_path: Path) -> tuple[Path, str]:
    path = tmp_path / "runner.sock"
    return path, f"unix:{path}"


async def _unavailable(sandbox: RemoteSandbox, kind: str) -> SandboxUnavailableError:
    with pytest.raises(SandboxUnavailableError) as caught:
        await sandbox.run(question())
    assert caught.value.kind == kind
    return caught.value


class TestRunnerAway:
    async def test_absent_is_retryable_and_shown(self, tmp_path: Path) -> None:
        async with asking(f"unix://{tmp_path}/none.sock", patience_s=0.1) as remote:
            error = await _unavailable(remote, "runner_away")
            assert (error.retryable, error.retry_after_s) == (True, 1.0)
            found = await remote.check()
            assert (found["ok"], found["state"]) == (True, "away")
            assert "cannot be reached" in found["reason"]
            with pytest.raises(SandboxUnavailableError, match="cannot be reached"):
                await remote.started()
            stats = remote.stats()
        assert (stats.calls, stats.away, stats.in_flight) == ({"unavailable": 1}, True, 0)

    async def test_one_that_takes_no_connection_is_given_up_soon(self) -> None:
        with socket.create_server(("127.0.0.1", 0), backlog=0) as listener, ExitStack() as stack:
            for _ in range(3):  # the kernel drops whatever comes after the backlog is full
                waiting = stack.enter_context(socket.socket())
                waiting.setblocking(False)
                waiting.connect_ex(listener.getsockname())
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            async with asking(url, connect_timeout_s=0.3) as remote:
                begun = time.monotonic()
                error = await _unavailable(remote, "runner_away")
                assert 0.5 < time.monotonic() - begun < 5  # two attempts
        assert "ConnectionTimeoutError" in str(error)

    async def test_killed_in_a_call_fails_typed_and_the_next_one_works(
        self, tmp_path: Path
    ) -> None:
        path, address = listening(tmp_path)
        async with asking(f"unix://{path}") as remote:
            with command("--listen", address) as first:
                first.wait_ready(path)
                assert (await remote.run(question())).value == 0.5
                call = asyncio.ensure_future(remote.run(question(SLEEP, item={"s": 30})))
                await asyncio.sleep(1.5)  # a heartbeat or two into the answer
                first.end(signal.SIGKILL)
                with pytest.raises(SandboxUnavailableError) as caught:
                    await call
                assert (caught.value.kind, caught.value.retryable) == ("runner_away", True)
            with command("--listen", address) as second:  # its socket was left behind
                second.wait_ready(path)
                assert (await remote.run(question())).value == 0.5
            assert remote.stats().away is False

    async def test_a_restart_between_calls_is_not_noticed(self, tmp_path: Path) -> None:
        async with asking(f"unix://{tmp_path}/runner.sock") as remote:
            for _ in range(2):  # the second time over a connection that has ended meanwhile
                async with running(tmp_path):
                    assert (await remote.run(question())).value == 0.5

    async def test_a_silent_runner_is_given_up_and_a_slow_call_is_not(self, tmp_path: Path) -> None:
        path, address = listening(tmp_path)
        async with asking(f"unix://{path}", silence_s=2.5, look_timeout_s=0.2) as remote:
            with command("--listen", address) as stopped:
                stopped.wait_ready(path)
                slow = await remote.run(question(SLEEP, item={"s": 4}))
                assert slow.value == 0.25
                stopped.process.send_signal(signal.SIGSTOP)
                error = await _unavailable(remote, "runner_away")
                assert "silent for 2.5 s" in str(error)
                assert (await remote.check())["reason"].endswith("silent for 0.2 s")
                stopped.process.send_signal(signal.SIGCONT)
                assert (await remote.run(question())).value == 0.5

    async def test_a_service_that_requires_it_waits_for_it(self, tmp_path: Path) -> None:
        async with asking(f"unix://{tmp_path}/runner.sock", required=True) as remote:
            waiting = asyncio.ensure_future(remote.started())
            await asyncio.sleep(0.2)
            assert not waiting.done()
            async with running(tmp_path):
                await waiting


class TestBackPressure:
    async def test_a_full_queue_is_429_with_retry_after(self, tmp_path: Path) -> None:
        changes = {"sandbox_slots": 1, "sandbox_queue": 1}
        async with running(tmp_path, **changes) as live, asking(live.url) as remote:
            slots = live.sandbox._slots
            held = await slots.acquire(0)
            waiting = asyncio.ensure_future(remote.run(question()))
            await until(lambda: live.sandbox.stats().waiting == 1)
            with pytest.raises(OverloadedError) as caught:
                await remote.run(question())
            assert caught.value.kind == "sandbox_queue_full"
            assert caught.value.flag == "python_grader_server_error"
            assert (caught.value.retry_after_s or 0) >= 1
            async with live.client() as client:
                content = _encoded(question())
                refused = await client.post("/v1/run", content=content)
            assert (refused.status_code, int(refused.headers["retry-after"]) >= 1) == (429, True)
            slots.release(held, held_s=None)
            assert (await waiting).value == 0.5
            assert remote.stats().calls == {"overloaded": 1, "answered": 1}

    async def test_too_many_calls_of_one_service_are_refused_here(self, tmp_path: Path) -> None:
        async with running(tmp_path) as live, asking(live.url, queue_length=1) as remote:
            first = asyncio.ensure_future(remote.run(question(SLEEP, item={"s": 1})))
            await until(lambda: remote.stats().in_flight == 1)
            with pytest.raises(OverloadedError, match="under way already"):
                await remote.run(question())
            assert (await first).value == 0.25

    async def test_more_calls_than_the_runner_has_files_for_are_refused(
        self, tmp_path: Path
    ) -> None:
        async with running(tmp_path, max_calls=1) as live, asking(live.url) as remote:
            first = asyncio.ensure_future(remote.run(question(SLEEP, item={"s": 1})))
            await until(lambda: live.sandbox.stats().running == 1)
            with pytest.raises(OverloadedError, match="too many calls") as caught:
                await remote.run(question())
            assert (caught.value.retryable, caught.value.retry_after_s) == (True, 1.0)
            assert (await first).value == 0.25
            assert (await remote.run(question())).value == 0.5

    async def test_unfinished_questions_cannot_fill_the_memory(self, tmp_path: Path) -> None:
        size = 1_000_000
        async with running(tmp_path, max_body_bytes=size) as live, asking(live.url) as remote:
            connections = []
            for _ in range(4):
                reader, writer = await asyncio.open_unix_connection(str(live.path))
                head = f"POST /v1/run HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n\r\n"
                writer.write(head.encode())
                connections.append((reader, writer))
            await until(lambda: live.app._held_bytes == 4 * size)
            with pytest.raises(OverloadedError, match="too many bytes"):
                await remote.run(question())
            for _, writer in connections:
                writer.close()
            await until(lambda: live.app._held_bytes == 0)
            assert (await remote.run(question())).value == 0.5

    async def test_a_question_that_does_not_come_is_given_up(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(runner_module, "_BODY_S", 0.2)
        async with running(tmp_path) as live:
            reader, writer = await asyncio.open_unix_connection(str(live.path))
            writer.write(b"POST /v1/run HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nx")
            assert b" 400 " in await reader.readline()
            writer.close()

    async def test_a_sample_too_long_for_the_runner_is_no_outage(self, tmp_path: Path) -> None:
        async with running(tmp_path, max_body_bytes=1_000_000) as live, asking(live.url) as remote:
            with pytest.raises(InputTooLongError, match="1000000 are allowed"):
                await remote.run(question(sample={"output_text": "x" * 20_000_000}))
            assert (await remote.run(question())).value == 0.5
            assert remote.stats().calls == {"refused": 1, "answered": 1}


class TestClientGone:
    async def test_a_cancelled_call_is_killed_and_frees_its_slot(self, tmp_path: Path) -> None:
        async with running(tmp_path, sandbox_slots=1) as live, asking(live.url) as remote:
            for _ in range(3):
                call = asyncio.ensure_future(remote.run(question(SLEEP, item={"s": 60})))
                await until(lambda: live.sandbox._live)
                call.cancel()
                await until(lambda: live.sandbox.stats().running == 0)
            assert live.sandbox.stats().kills == {"cancelled": 3}
            assert live.sandbox.stats().calls == {"cancelled": 3}
            assert (await remote.run(question())).value == 0.5
            assert remote.stats().calls == {"cancelled": 3, "answered": 1}

    async def test_one_that_goes_while_it_waits_leaves_the_queue(self, tmp_path: Path) -> None:
        async with running(tmp_path, sandbox_slots=1) as live, asking(live.url) as remote:
            held = await live.sandbox._slots.acquire(0)
            call = asyncio.ensure_future(remote.run(question()))
            await until(lambda: live.sandbox.stats().waiting == 1)
            call.cancel()
            await until(lambda: live.sandbox.stats().waiting == 0)
            live.sandbox._slots.release(held, held_s=None)
            assert (await remote.run(question())).value == 0.5

    async def test_one_that_goes_before_it_has_asked_costs_nothing(self, tmp_path: Path) -> None:
        async with running(tmp_path) as live, asking(live.url) as remote:
            _, writer = await asyncio.open_unix_connection(str(live.path))
            writer.write(b"POST /v1/run HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nx")
            await until(lambda: live.app._held_bytes == 9)
            writer.close()
            await until(lambda: live.app._held_bytes == 0)
            assert (await remote.run(question())).value == 0.5


@asynccontextmanager
async def answering(path: Path, answer: bytes) -> AsyncIterator[str]:
    """Serve ``answer`` to everybody."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    async with await asyncio.start_unix_server(handle, path):
        yield f"unix://{path}"


def _http(body: bytes, media_type: str = MEDIA_TYPE, status: int = 200) -> bytes:
    head = f"HTTP/1.1 {status} X\r\nContent-Type: {media_type}\r\nContent-Length: {len(body)}"
    return head.encode() + b"\r\n\r\n" + body


class TestForeignAnswers:
    @pytest.mark.parametrize(
        ("answer", "kind", "retryable"),
        [
            (_http(b"x" * 2_000_000), "runner_answer_too_large", False),
            (_http(b"\0" * 2_000_000), "runner_answer_too_large", False),
            (_http(b"<h1>Bad gateway</h1>", "text/html", 502), "runner_not_understood", True),
            (_http(b"", "text/plain"), "runner_not_understood", True),
            (_http(b"\0\0\xff\xff"), "runner_not_understood", True),
            (_http(msgspec.msgpack.encode({"type": "done"})), "runner_not_understood", True),
            (
                _http(msgspec.msgpack.encode({"type": "done", "result": {"outcome": "perfect"}})),
                "runner_not_understood",
                True,
            ),
            (_http(b"\x91" * 100_000), "runner_not_understood", True),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nx", "runner_away", True),
            (b"nonsense\r\n\r\n", "runner_away", True),
            (b"", "runner_away", True),
        ],
        ids=[
            *("large", "many heartbeats", "proxy", "empty", "no msgpack", "no result"),
            *("unknown outcome", "deep", "cut off", "no HTTP", "closed"),
        ],
    )
    async def test_are_typed(
        self, tmp_path: Path, answer: bytes, kind: str, *, retryable: bool
    ) -> None:
        async with answering(tmp_path / "s", answer) as url, asking(url) as remote:
            error = await _unavailable(remote, kind)
        assert error.retryable is retryable

    async def test_a_readiness_of_something_else_is_shown(self, tmp_path: Path) -> None:
        answer = _http(b'{"ready": true}', "application/json")
        async with answering(tmp_path / "s", answer) as url, asking(url) as remote:
            found = await remote.check()
        assert (found["state"], "not understood" in found["reason"]) == ("away", True)


class TestStop:
    async def test_what_was_accepted_is_answered(self, tmp_path: Path) -> None:
        path, address = listening(tmp_path)
        with command("--listen", address) as stopping:
            stopping.wait_ready(path)
            async with asking(f"unix://{path}") as remote:
                call = asyncio.ensure_future(remote.run(question(SLEEP, item={"s": 1.5})))
                await asyncio.sleep(0.5)
                stopping.process.terminate()
                assert (await call).value == 0.25
            code, out, err = await asyncio.to_thread(stopping.end, None)
        assert (code, f"at {address}" in out, '"event":"stopped"' in err) == (0, True, True)
        assert not path.exists()

    async def test_nothing_of_it_stays(self, tmp_path: Path) -> None:
        path, address = listening(tmp_path)
        with command("--listen", address) as stopping:
            stopping.wait_ready(path)
            family = _family(stopping)
            assert family
            stopping.end(signal.SIGKILL)
        await until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in family))


def _family(started: Command) -> list[int]:
    """Return the processes that it has made."""
    import psutil

    return [child.pid for child in psutil.Process(started.process.pid).children(recursive=True)]


def _encoded(run: object) -> bytes:
    from service.sandbox.messages import RunQuestion

    fields = msgspec.to_builtins(run, builtin_types=(bytes,))
    return msgspec.msgpack.encode(RunQuestion(**fields, timeout_s=5.0, minimum_level="process"))


def test_an_answer_never_begins_like_a_heartbeat() -> None:
    from graders.ports import SandboxResult

    answer = msgspec.msgpack.encode(Done(result=SandboxResult(outcome="value", value=0.0)))
    assert answer[:1] != b"\0"
