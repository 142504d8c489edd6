"""The adapters that settings ask for: built, started late, shown in readiness and in metrics."""

from __future__ import annotations

import asyncio
import errno
import os
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from graders.errors import SandboxUnavailableError
from graders.ports import SandboxResult, SandboxRun
from service import adapters as wiring
from service.adapters import (
    AdapterError,
    LateSandbox,
    build_adapters,
    find_wordnet,
    running,
    sandbox_config,
)
from service.app import create_app
from service.counting import Counts
from service.jobs import Jobs
from service.judge import JudgeContext
from service.judge.budget import Standing
from service.judge.stats import Latency, RouteState
from service.metrics import Metrics
from service.observing import Observer
from service.sandbox import RemoteSandbox, scratch
from service.sandbox.build_image import known_tags
from service.sandbox.config import IsolationReport, SandboxStats
from service.sandbox.problems import IsolationTooWeakError
from service.settings import Settings
from service.stores import MemoryStore, Reservation
from tests.api.world import calling, metric, serving, settings
from tests.stores.server import RedisServer, certificate

RUN = SandboxRun(source="def grade(sample, item): return 1", image_tag="2025-05-08", payload=b"{}")
REPORT = IsolationReport(
    level="lsm",
    minimum_level="lsm",
    profile="strict",
    landlock_abi=4,
    seccomp=True,
    userns=False,
    pidns=False,
    netns=False,
    cgroup=False,
    uid=65534,
    selftest={},
    notes=(),
)
STATS = SandboxStats(
    calls={"value": 3, "timeout": 1},
    queue_s=0.5,
    execution_s=2.0,
    kills={"timeout": 1},
    zygote_restarts=2,
    running=1,
    slow=0,
    waiting=4,
    tiers=(),
    level="lsm",
)


class FakeRunning:
    """A sandbox that has started."""

    def __init__(self) -> None:
        self.closed = False

    async def run(self, _: SandboxRun) -> SandboxResult:
        return SandboxResult(outcome="value", value=0.5)

    def report(self) -> IsolationReport:
        return REPORT

    def stats(self) -> SandboxStats:
        return STATS

    async def close(self) -> None:
        self.closed = True


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A directory that looks as if the grader image had been built in it."""
    (tag,) = known_tags()
    python = tmp_path / tag / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch()
    (tmp_path / tag / ".gradekeeper-image.json").touch()
    return tmp_path


@pytest.fixture
def no_routes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> FakeRunning:
    """A sandbox that starts at once."""
    sandbox = FakeRunning()

    async def start(_: Any) -> FakeRunning:
        await asyncio.sleep(0)
        return sandbox

    monkeypatch.setattr(wiring, "start_sandbox", start)
    return sandbox


class TestSandbox:
    async def test_is_ready_late_and_then_runs(self, images: Path, started: FakeRunning) -> None:
        sandbox = LateSandbox(Settings(sandbox_images_dir=str(images)))
        assert (await sandbox.check()) == {"ok": False, "state": "starting"}
        sandbox.start()
        sandbox.start()
        assert (await sandbox.run(RUN)).value == 0.5
        assert (await sandbox.run(RUN)).value == 0.5
        assert sandbox.report is REPORT
        found = await sandbox.check()
        assert (found["ok"], found["state"], found["isolation"]["level"]) == (
            True,
            "running",
            "lsm",
        )
        await sandbox.close()
        assert started.closed

    async def test_switched_off_runs_nothing(self) -> None:
        sandbox = LateSandbox(Settings(sandbox="off"))
        sandbox.start()
        assert await sandbox.check() == {"ok": True, "state": "off"}
        with pytest.raises(SandboxUnavailableError, match="switched off") as caught:
            await sandbox.run(RUN)
        assert caught.value.retryable is False
        await sandbox.close()

    async def test_without_an_image_refuses_and_says_how_to_get_one(self, tmp_path: Path) -> None:
        sandbox = LateSandbox(Settings(sandbox_images_dir=str(tmp_path)))
        with pytest.raises(SandboxUnavailableError, match="make sandbox") as caught:
            await sandbox.run(RUN)
        assert caught.value.kind == "isolation_unavailable"
        found = await sandbox.check()
        assert (found["ok"], found["state"]) == (True, "refused")
        assert "make sandbox" in found["reason"]
        await sandbox.close()

    async def test_too_weak_an_isolation_refuses(
        self, images: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def weak(_: Any) -> None:
            raise IsolationTooWeakError("process", "lsm", ("no landlock",))

        monkeypatch.setattr(wiring, "start_sandbox", weak)
        sandbox = LateSandbox(Settings(sandbox_images_dir=str(images)))
        with pytest.raises(SandboxUnavailableError):
            await sandbox.run(RUN)

    async def test_a_full_disk_is_waited_out(
        self, images: Path, started: FakeRunning, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        full = True

        async def start(_: Any) -> FakeRunning:
            if full:
                raise OSError(errno.ENOSPC, "No space left on device")
            return started

        monkeypatch.setattr(wiring, "start_sandbox", start)
        monkeypatch.setattr(wiring, "_AGAIN_S", 0.01)
        sandbox = LateSandbox(Settings(sandbox_images_dir=str(images)))
        sandbox.start()
        await asyncio.sleep(0.05)
        reason = "No space left on device"
        assert await sandbox.check() == {"ok": False, "state": "starting", "reason": reason}
        with pytest.raises(SandboxUnavailableError, match="No space left on device") as caught:
            await sandbox.run(RUN)
        assert (caught.value.retryable, caught.value.kind) == (True, "shortage")
        full = False
        await sandbox.started()
        assert (await sandbox.run(RUN)).value == 0.5
        await sandbox.close()

    async def test_closing_while_the_disk_is_full_ends_the_start(
        self, images: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def start(_: Any) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(wiring, "start_sandbox", start)
        sandbox = LateSandbox(Settings(sandbox_images_dir=str(images)))
        sandbox.start()
        await asyncio.sleep(0)
        async with asyncio.timeout(5):
            await sandbox.close()
        assert sandbox.running is None

    async def test_closing_while_it_starts_ends_the_start(
        self, images: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        begun, may_end, late = asyncio.Event(), asyncio.Event(), FakeRunning()

        async def slow(_: Any) -> FakeRunning:
            begun.set()
            await may_end.wait()
            return late

        monkeypatch.setattr(wiring, "start_sandbox", slow)
        sandbox = LateSandbox(Settings(sandbox_images_dir=str(images)))
        sandbox.start()
        await begun.wait()
        closing = asyncio.create_task(sandbox.close())
        await asyncio.sleep(0.01)
        assert not closing.done()
        may_end.set()
        await closing
        assert late.closed

    async def test_an_image_whose_build_was_interrupted_is_none(
        self, images: Path, started: FakeRunning
    ) -> None:
        (tag,) = known_tags()
        (images / tag / ".gradekeeper-image.json").unlink()
        sandbox = LateSandbox(Settings(sandbox_images_dir=str(images)))
        with pytest.raises(SandboxUnavailableError, match="no grader image is built"):
            await sandbox.run(RUN)

    async def test_graders_that_are_not_isolated_are_a_warning_and_a_degraded_readiness(
        self, images: Path, started: FakeRunning, monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:  # fmt: skip
        report = msgspec.structs.replace(REPORT, level="process")
        monkeypatch.setattr(started, "report", lambda: report)
        sandbox = LateSandbox(Settings(sandbox_images_dir=str(images)))
        await sandbox.run(RUN)
        found = await sandbox.check()
        assert (found["ok"], found["state"]) == (True, "degraded")
        assert found["isolation"]["level"] == "process"
        assert [(record.levelname, record.message) for record in caplog.records] == [
            ("WARNING", "Python graders are not isolated")
        ]

    async def test_without_a_place_for_files_refuses_and_says_so(
        self, images: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
        monkeypatch.setattr(scratch, "usual_parent", lambda _: "/nowhere")
        sandbox = LateSandbox(Settings(sandbox_images_dir=str(images)))
        with pytest.raises(SandboxUnavailableError, match="No such file or directory: '/nowhere"):
            await sandbox.run(RUN)
        found = await sandbox.check()
        assert found["state"] == "refused"
        assert "/nowhere" in found["reason"]

    def test_the_slots_of_two_workers_begin_at_different_cpus(
        self, images: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = []
        for pid in (10, 11):
            monkeypatch.setattr(os, "getpid", lambda pid=pid: pid)
            made = sandbox_config(Settings(sandbox_images_dir=str(images), sandbox_cores=2))
            first.append(made.first_cpu)
        assert first[1] - first[0] == 2

    async def test_required_but_missing_stops_the_start(
        self, tmp_path: Path, no_routes: None
    ) -> None:
        adapters = build_adapters(Settings(sandbox="required", sandbox_images_dir=str(tmp_path)))
        with pytest.raises(AdapterError, match="no grader image"):
            async with running(adapters):
                raise AssertionError("it must not have started")

    def test_takes_its_limits_from_the_settings(self, images: Path) -> None:
        config = sandbox_config(
            Settings(sandbox_images_dir=str(images), sandbox_slots=3, sandbox_profile="processes")
        )
        assert (config.slots, config.profile) == (3, "processes")
        assert set(config.images) == set(known_tags())


class TestBuilding:
    @pytest.mark.parametrize(
        ("variable", "text", "problem"),
        [
            ("judge_budgets_file", None, "the budgets file cannot be read: No such file"),
            ("judge_budgets_file", "[", "the budgets file is not valid"),
            ("judge_budgets_file", '{"budgets": [{"per": "day"}]}', "the budgets file is not val"),
            ("judge_routes_file", None, "the routes file cannot be read"),
            ("judge_routes_file", "{", "the routes file is not valid"),
        ],
    )
    def test_files_that_cannot_be_used_are_named(
        self, tmp_path: Path, variable: str, text: str | None, problem: str
    ) -> None:
        file = tmp_path / "file.json"
        if text is not None:
            file.write_text(text)
        with pytest.raises(AdapterError, match=problem):
            build_adapters(msgspec.structs.replace(Settings(), **{variable: str(file)}))

    def test_a_recording_has_one_writer(self, tmp_path: Path, no_routes: None) -> None:
        settings = Settings(
            workers=2, judge_mode="record", judge_recording=str(tmp_path / "r.jsonl")
        )
        with pytest.raises(AdapterError, match="one process writes a recording"):
            build_adapters(settings)
        assert not (tmp_path / "r.jsonl").exists()

    def test_limits_that_cannot_be_divided_stop_the_start(self, tmp_path: Path) -> None:
        file = tmp_path / "routes.json"
        file.write_text('{"routes": [{"name": "a", "concurrency": 5}]}')
        settings = Settings(workers=2, replicas=3, judge_routes_file=str(file))
        with pytest.raises(AdapterError, match="concurrency 5 cannot be divided among 6"):
            build_adapters(settings)
        build_adapters(msgspec.structs.replace(settings, judge_mode="replay"))
        adapters = build_adapters(msgspec.structs.replace(settings, replicas=2))
        assert adapters.judge.route_states[0].limit == 1

    @pytest.mark.integration
    async def test_redis_is_reached_with_its_authority_and_prefix(self, tmp_path: Path) -> None:
        cert, options = certificate(tmp_path)
        with RedisServer(*options, tls=True) as server:
            adapters = build_adapters(
                Settings(redis_url=server.url, redis_ca_file=str(cert), redis_prefix="ours")
            )
            await adapters.store.put("k", b"v", ttl_s=60)
            assert await adapters.store.get_many(["k"]) == [b"v"]
            found = server.cli("--tls", "--cacert", str(cert), "keys", "*").split()
            assert found == ["ours:{k}:v"]
            await adapters.store.close()

    def test_an_authority_that_is_not_there_stops_the_start(self, tmp_path: Path) -> None:
        missing = str(tmp_path / "ca.pem")
        with pytest.raises(AdapterError, match="GRADEKEEPER_REDIS_CA_FILE"):
            build_adapters(Settings(redis_url="rediss://127.0.0.1:1/0", redis_ca_file=missing))

    def test_a_runner_that_cannot_be_meant_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(AdapterError, match="GRADEKEEPER_SANDBOX_URL: expected unix:"):
            build_adapters(Settings(sandbox_url="runner:8081"))
        with pytest.raises(AdapterError, match="GRADEKEEPER_SANDBOX_TOKEN_FILE: the token file"):
            build_adapters(
                Settings(sandbox_url="http://runner", sandbox_token_file=str(tmp_path / "none"))
            )

    async def test_a_runner_is_asked_for_what_the_settings_say(self) -> None:
        settings = Settings(
            sandbox_url="http://runner:8081",
            sandbox="required",
            sandbox_seeds="fixed",
            sandbox_timeout_s=7.0,
            sandbox_min_isolation="namespaces",
        )
        sandbox = build_adapters(settings).sandbox
        assert isinstance(sandbox, RemoteSandbox)
        asked = sandbox._config
        assert (asked.timeout_s, asked.seeds, asked.minimum_level) == (7.0, "fixed", "namespaces")
        assert sandbox.required

    def test_where_graders_are_off_no_runner_is_asked(self) -> None:
        adapters = build_adapters(Settings(sandbox_url="http://runner:8081", sandbox="off"))
        assert isinstance(adapters.sandbox, LateSandbox)
        assert adapters.ports.sandbox is None

    def test_a_store_that_cannot_be_meant_is_named(self) -> None:
        with pytest.raises(AdapterError, match="redis"):
            build_adapters(Settings(redis_url="http://example.org/0"))

    async def test_budgets_are_read(self, tmp_path: Path, no_routes: None) -> None:
        file = tmp_path / "budgets.json"
        file.write_text('{"budgets": [{"per": "total", "dollars_per_day": 5}]}')
        async with running(build_adapters(Settings(judge_budgets_file=str(file), sandbox="off"))):
            pass

    def test_wordnet_that_is_nowhere_is_explained(self, tmp_path: Path) -> None:
        wordnet, hint = find_wordnet(str(tmp_path))
        assert wordnet is None
        assert "WordNet" in hint
        assert "GRADEKEEPER_WORDNET_DIR" in hint


class TestService:
    @pytest.fixture
    async def client(self, definitions: Path, no_routes: None) -> AsyncIterator[httpx.AsyncClient]:
        async with calling(create_app(settings(definitions))) as client:
            yield client

    async def test_readyz_shows_every_adapter(self, client: httpx.AsyncClient) -> None:
        found = (await client.get("/readyz")).json()
        assert found["ready"] is True
        assert list(found["dependencies"]) == ["definitions", "sandbox", "judge", "store"]
        assert found["dependencies"]["store"] == {"ok": True, "problem": None}

    async def test_judges_without_a_route_are_an_upstream_failure(
        self, client: httpx.AsyncClient
    ) -> None:
        body = {"item": {"question": "?"}, "model_sample": "x"}
        response = await client.post("/v1/graders/judged/versions/1/score", json=body)
        assert response.status_code in {501, 503}
        assert response.headers["content-type"] == "application/problem+json"

    @pytest.mark.parametrize(
        "headers",
        [
            {"x-gradekeeper-cache": "sometimes"},
            {"x-gradekeeper-sample-index": "-1"},
            {"x-gradekeeper-sample-index": "many"},
            {"x-gradekeeper-sample-index": "1000000"},
        ],
        ids=str,
    )
    async def test_terms_that_mean_nothing_are_400(
        self, client: httpx.AsyncClient, headers: dict[str, str]
    ) -> None:
        body = {"item": {"question": "?"}, "model_sample": "x"}
        for url, sent in (
            ("/v1/graders/judged/versions/1/score", body),
            ("/v1/graders/judged/versions/1/score/batch", {"rows": [body]}),
        ):
            response = await client.post(url, json=sent, headers=headers)
            assert response.status_code == 400
            (name,) = headers
            assert response.json()["detail"].startswith(f"{name}: expected")

    def test_starts_and_stops_with_its_adapters(self, definitions: Path, no_routes: None) -> None:
        app_settings = settings(definitions)
        with serving(app_settings, build_adapters(app_settings).ports) as live:
            assert httpx.get(f"{live.url}/readyz").json()["ready"] is True

    async def test_the_lifespan_runs_the_adapters(self, definitions: Path, no_routes: None) -> None:
        app = create_app(settings(definitions))
        messages = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])
        sent: list[str] = []

        async def receive() -> Any:
            return next(messages)

        async def send(message: Any) -> None:
            sent.append(message["type"])

        await app({"type": "lifespan", "state": {}}, receive, send)
        assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


class TestObserver:
    async def test_shows_what_is_left_of_budgets(self, tmp_path: Path, no_routes: None) -> None:
        budgets = tmp_path / "budgets.json"
        text = '{"budgets": [{"per": "total", "dollars_per_day": 2}]}'
        await asyncio.to_thread(budgets.write_text, text)
        adapters = build_adapters(Settings(sandbox="off", judge_budgets_file=str(budgets)))
        counts = Counts(Metrics())
        jobs = Jobs(MemoryStore(), shared=False, max_running=1)
        observer = Observer(counts, jobs, adapters)
        await observer.look_at_budgets()
        left = 'gradekeeper_judge_budget_left_dollars{name="",per="total"}'
        assert metric(counts.metrics.exposition()[0].decode(), left) == 2.0
        budget = adapters.judge._asker._budgets
        reserved = await budget.reserve(JudgeContext(), 500_000_000, hold_s=9)
        assert isinstance(reserved, Reservation)
        await budget.settle(reserved, spent=2_500_000_000)  # more than was thought
        await observer.look_at_budgets()
        assert metric(counts.metrics.exposition()[0].decode(), left) == 0.0
        await adapters.store.close()

    async def test_keeps_what_it_knew_while_redis_is_away(
        self, monkeypatch: pytest.MonkeyPatch, no_routes: None
    ) -> None:
        adapters = build_adapters(Settings(sandbox="off"))
        counts = Counts(Metrics())
        jobs = Jobs(MemoryStore(), shared=False, max_running=1)
        spent: float | None = 1.5

        async def budgets_today() -> list[Standing]:
            return [Standing(per="key", name="trainer", limit=2.0, spent=spent)]

        monkeypatch.setattr(adapters.judge, "budgets_today", budgets_today)
        observer = Observer(counts, jobs, adapters)
        await observer.look_at_budgets()
        spent = None
        await observer.look_at_budgets()
        left = 'gradekeeper_judge_budget_left_dollars{name="trainer",per="key"}'
        assert metric(counts.metrics.exposition()[0].decode(), left) == 0.5

    async def test_without_adapters_there_is_nothing_to_see(self) -> None:
        counts = Counts(Metrics())
        jobs = Jobs(MemoryStore(), shared=False, max_running=1)
        await Observer(counts, jobs, None).look_at_budgets()
        assert "judge_budget_left_dollars{" not in counts.metrics.exposition()[0].decode()

    async def test_copies_what_has_grown_and_never_twice(
        self, monkeypatch: pytest.MonkeyPatch, no_routes: None
    ) -> None:
        adapters = build_adapters(Settings(sandbox="off"))
        assert isinstance(adapters.sandbox, LateSandbox)
        adapters.sandbox.running = FakeRunning()  # type: ignore[assignment] # enough of one
        judge = adapters.judge.stats
        judge.attempts["main", "ok"] += 2
        judge.tokens["m", "prompt"] += 10
        judge.nanodollars["key", "exact@1", "m"] += 1_500_000_000
        judge.latency["main"] = Latency()
        for seconds in (0.05, 0.3, 500.0):
            judge.latency["main"].observe(seconds)
        state = RouteState(route="main", in_flight=1, queued=2, limit=8, circuit="open")
        monkeypatch.setattr(type(adapters.judge), "route_states", (state,))
        adapters.store.stats.operations["get", "hit"] += 7
        metrics = Metrics()
        jobs = Jobs(MemoryStore(), shared=False, max_running=1)
        observer = Observer(Counts(metrics), jobs, adapters)
        observer.look()
        observer.look()
        judge.attempts["main", "ok"] += 1
        judge.latency["main"].observe(0.3)
        observer.look()
        text = metrics.exposition()[0].decode()
        for series, value in {
            'judge_attempts_total{outcome="ok",route="main"}': 3,
            'judge_tokens_total{kind="prompt",model="m"}': 10,
            'judge_cost_dollars_total{grader="exact@1",key="key",model="m"}': 1.5,
            'judge_duration_seconds_count{route="main"}': 4,
            'judge_duration_seconds_bucket{le="0.1",route="main"}': 1,
            'judge_duration_seconds_bucket{le="0.5",route="main"}': 3,
            'judge_duration_seconds_sum{route="main"}': 500.65,
            'judge_in_flight{route="main"}': 1,
            'judge_queued{route="main"}': 2,
            'judge_circuit_open{route="main"}': 1,
            'sandbox_calls_total{outcome="value"}': 3,
            'sandbox_kills_total{reason="timeout"}': 1,
            "sandbox_queue_seconds_total": 0.5,
            "sandbox_waiting": 4,
            'sandbox_level{level="lsm"}': 1,
            'sandbox_level{level="process"}': 0,
            'store_operations_total{operation="get",outcome="hit"}': 7,
            "store_away": 0,
        }.items():
            assert metric(text, f"gradekeeper_{series}") == pytest.approx(value), series
