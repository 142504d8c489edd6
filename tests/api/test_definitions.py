"""Definitions that are read again while the service runs, and how it starts and stops."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from graders.building import Options
from graders.ports import Ports
from graders.registry import BrokenDefinitionsError, define
from service.app import _refresh, app_from_environment, create_app
from service.definitions import Definitions
from service.edge import Edge
from tests.api.world import (
    CODED,
    EXACT,
    Child,
    calling,
    key_entry,
    metric,
    running,
    serving,
    settings,
    wait_until,
    write_definitions,
)

ROW = {"item": {"answer": "A"}, "model_sample": "a"}
BROKEN = {**EXACT, "operation": "is", "input": "{{nothing}}"}


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A directory of definitions to change."""
    return write_definitions(tmp_path / "mine", {"exact": [EXACT], "coded": [CODED]})


def put(directory: Path, name: str, version: int, document: Any) -> None:
    folder = directory / name
    folder.mkdir(exist_ok=True)
    (folder / f"{version}.json").write_text(json.dumps(document))


def definitions_of(app: Edge) -> Definitions:
    found: Definitions = app._app.state.services.definitions
    return found


class TestReload:
    async def test_a_changed_set_is_served(self, mine: Path) -> None:
        app = create_app(settings(mine), ports=Ports())
        async with calling(app) as client:
            url = "/v1/graders/exact/versions/latest/score"
            assert (await client.post(url, json=ROW)).json()["version"] == 1
            put(mine, "exact", 2, {**EXACT, "operation": "ilike"})
            assert definitions_of(app).reload() is True
            answer = (await client.post(url, json=ROW)).json()
            text = (await client.get("/metrics")).text
        assert (answer["version"], answer["reward"]) == (2, 1.0)
        assert metric(text, "gradekeeper_definitions") == 3
        assert metric(text, 'gradekeeper_definitions_reloads_total{outcome="ok"}') == 1
        assert metric(text, "gradekeeper_definitions_reload_failed") == 0

    async def test_a_broken_set_keeps_the_old_one_and_shows_everywhere(
        self, mine: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        app = create_app(settings(mine), ports=Ports())
        put(mine, "exact", 2, BROKEN)
        put(mine, "other", 3, EXACT)
        assert definitions_of(app).reload() is False
        async with calling(app) as client:
            kept = await client.post("/v1/graders/exact/versions/latest/score", json=ROW)
            ready = (await client.get("/readyz")).json()
            text = (await client.get("/metrics")).text
        assert kept.json()["version"] == 1
        assert ready["ready"] is True
        assert ready["dependencies"]["definitions"]["reload_failed"] is True
        assert metric(text, "gradekeeper_definitions_reload_failed") == 1
        assert metric(text, 'gradekeeper_definitions_reloads_total{outcome="failed"}') == 1
        record: Any = caplog.records[-1]
        assert record.getMessage() == "definitions kept: the new ones are broken"
        found = "\n".join(record.fields["findings"])
        for place in ("2.json#/operation", "2.json#/input", "other: "):
            assert place in found

    async def test_a_changed_version_keeps_the_old_one_and_shows_everywhere(
        self, mine: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        app = create_app(settings(mine), ports=Ports())
        put(mine, "exact", 1, {**EXACT, "operation": "ilike"})
        put(mine, "exact", 2, EXACT | {"reference": "fixed"})
        assert definitions_of(app).reload() is False
        async with calling(app) as client:
            kept = await client.post("/v1/graders/exact/versions/latest/score", json=ROW)
            ready = (await client.get("/readyz")).json()
            text = (await client.get("/metrics")).text
        assert (kept.json()["version"], kept.json()["reward"]) == (1, 0.0)
        assert ready["dependencies"]["definitions"]["reload_failed"] is True
        assert metric(text, "gradekeeper_definitions_reload_failed") == 1
        assert metric(text, 'gradekeeper_definitions_reloads_total{outcome="failed"}') == 1
        record: Any = caplog.records[-1]
        (finding,) = record.fields["findings"]
        assert finding.startswith(f"{mine}/exact/1.json: exact@1 is served as sha256:")
        put(mine, "exact", 1, EXACT)
        assert definitions_of(app).reload() is True
        assert definitions_of(app).get("exact", "latest").version == 2

    def test_files_and_publications_do_not_change_each_other(self, mine: Path) -> None:
        definitions = definitions_of(create_app(settings(mine), ports=Ports()))
        loose = json.dumps({**EXACT, "operation": "ilike"}).encode()
        published = [define(name, 1, loose, Options()) for name in ("exact", "other")]
        definitions.adopt_published(published, {})
        put(mine, "other", 1, EXACT)
        assert definitions.reload() is False
        assert f"{mine}/other/1.json: other@1" in (definitions.failure or "")
        shutil.rmtree(mine / "other")
        assert definitions.reload() is True
        shutil.rmtree(mine / "exact")
        assert definitions.reload() is False
        assert "published/1.json: exact@1" in (definitions.failure or "")
        assert definitions.get("other", "1").digest == published[1].digest

    def test_other_spelling_of_the_same_version_is_taken(self, mine: Path) -> None:
        definitions = definitions_of(create_app(settings(mine), ports=Ports()))
        (mine / "exact" / "1.json").write_text(json.dumps(EXACT, indent=4))
        assert definitions.reload() is True

    def test_a_version_that_was_away_comes_back_as_it_was(self, mine: Path) -> None:
        definitions = definitions_of(create_app(settings(mine), ports=Ports()))
        shutil.rmtree(mine / "exact")
        assert definitions.reload() is True
        put(mine, "exact", 1, {**EXACT, "operation": "ilike"})
        assert definitions.reload() is False
        put(mine, "exact", 1, EXACT)
        assert definitions.reload() is True

    async def test_putting_it_right_ends_the_alarm(self, mine: Path) -> None:
        app = create_app(settings(mine), ports=Ports())
        put(mine, "exact", 2, BROKEN)
        definitions_of(app).reload()
        put(mine, "exact", 2, EXACT)
        assert definitions_of(app).reload() is True
        async with calling(app) as client:
            ready = (await client.get("/readyz")).json()
            text = (await client.get("/metrics")).text
        assert ready["dependencies"]["definitions"]["reload_failed"] is False
        assert metric(text, "gradekeeper_definitions_reload_failed") == 0

    def test_a_directory_that_is_gone_keeps_the_old_set(self, mine: Path) -> None:
        definitions = definitions_of(create_app(settings(mine), ports=Ports()))
        shutil.rmtree(mine)
        assert definitions.reload() is False
        assert definitions.get("exact", "1").version == 1

    def test_only_changes_cause_a_reading(self, mine: Path) -> None:
        definitions = definitions_of(create_app(settings(mine), ports=Ports()))
        first = definitions.registry
        definitions.reload_if_changed()
        assert definitions.registry is first
        put(mine, "exact", 2, EXACT | {"reference": "fixed"})
        definitions.reload_if_changed()
        assert len(definitions.registry) == 3

    def test_a_broken_set_is_read_once_for_each_change(
        self, mine: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        definitions = definitions_of(create_app(settings(mine), ports=Ports()))
        put(mine, "exact", 2, BROKEN)
        for _ in range(3):
            definitions.reload_if_changed()
        assert len(caplog.records) == 1

    def test_files_that_vanish_while_they_are_looked_at_do_no_harm(
        self, mine: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        definitions = definitions_of(create_app(settings(mine), ports=Ports()))

        read, stat = Path.read_bytes, Path.stat

        def gone(path: Path, **options: Any) -> Any:
            if path.suffix == ".json":
                raise FileNotFoundError(path)
            return (stat if options else read)(path, **options)

        monkeypatch.setattr(Path, "read_bytes", gone)
        assert definitions.reload() is False
        monkeypatch.setattr(Path, "stat", lambda path, **_: gone(path, follow_symlinks=True))
        definitions.reload_if_changed()
        monkeypatch.undo()
        assert definitions.reload() is True

    def test_folders_that_vanish_while_they_are_walked_do_no_harm(
        self, mine: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        definitions = definitions_of(create_app(settings(mine), ports=Ports()))

        def gone(path: Path, _: str) -> Iterator[Path]:
            yield path / "a"
            raise FileNotFoundError(path)

        monkeypatch.setattr(Path, "rglob", gone)
        definitions.reload_if_changed()
        monkeypatch.undo()
        definitions.reload_if_changed()
        assert definitions.failure is None

    def test_the_watch_takes_changes_up(self, mine: Path) -> None:
        with serving(settings(mine, reload_definitions_s=0.05)) as live:
            put(mine, "exact", 2, {**EXACT, "operation": "ilike"})
            url = f"{live.url}/v1/graders/exact"
            wait_until(lambda: httpx.get(url).json()["latest"] == 2)
            put(mine, "exact", 3, BROKEN)
            url = f"{live.url}/readyz"
            wait_until(
                lambda: httpx.get(url).json()["dependencies"]["definitions"]["reload_failed"]
            )
            put(mine, "exact", 3, EXACT)
            url = f"{live.url}/v1/graders/exact"
            wait_until(lambda: httpx.get(url).json()["latest"] == 3)

    def test_refreshing_reads_keys_and_definitions(self, mine: Path, tmp_path: Path) -> None:
        keys = tmp_path / "keys.json"
        keys.write_text("[]")
        app = create_app(settings(mine, api_keys_file=str(keys)))
        keys.write_text(json.dumps([key_entry("new", "gk-new", ["score"])]))
        put(mine, "exact", 2, EXACT | {"reference": "fixed"})
        _refresh(app._app.state.services)
        assert len(app._keys.ring) == 1
        assert len(definitions_of(app).registry) == 3


class TestStart:
    def test_a_broken_definition_stops_it_with_every_finding(self, mine: Path) -> None:
        put(mine, "exact", 2, BROKEN)
        put(mine, "coded", 2, {"type": "python"})
        with pytest.raises(BrokenDefinitionsError) as caught:
            create_app(settings(mine), ports=Ports())
        text = str(caught.value)
        for place in ("exact/2.json#/operation", "exact/2.json#/input", "coded/2.json#/source"):
            assert place in text

    def test_directories_without_a_lock_are_told(
        self, mine: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        more = write_definitions(tmp_path / "more", {"another": [EXACT]})
        digest = definitions_of(create_app(settings(more))).get("another", "1").digest
        (more / "definitions.lock").write_text(f"another@1 {digest}\n")
        caplog.clear()
        app = create_app(settings(mine, definitions=f"{mine}:{more}"))
        assert len(definitions_of(app).registry) == 3
        told: list[Any] = [
            record for record in caplog.records if "without a lock" in record.getMessage()
        ]
        assert [record.fields for record in told] == [{"directory": str(mine), "versions": 2}]

    def test_several_directories_are_served(self, mine: Path, tmp_path: Path) -> None:
        more = write_definitions(tmp_path / "more", {"another": [EXACT]})
        app = create_app(settings(mine, definitions=f"{mine}:{more}:"))
        assert definitions_of(app).registry.names() == ["another", "coded", "exact"]

    def test_the_environment_decides(
        self, mine: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        for name in [name for name in os.environ if name.startswith("GRADEKEEPER_")]:
            monkeypatch.delenv(name)
        monkeypatch.setenv("GRADEKEEPER_DEFINITIONS", str(mine))
        monkeypatch.setenv("GRADEKEEPER_BUNDLED_DEFINITIONS", "off")
        root = logging.getLogger()
        kept, level = root.handlers[:], root.level
        try:
            app = app_from_environment()
        finally:
            root.handlers[:] = kept
            root.setLevel(level)
        assert definitions_of(app).registry.names() == ["coded", "exact"]
        assert app._log is not None


class TestProcess:
    @pytest.fixture
    def child(self, mine: Path, tmp_path: Path) -> Iterator[Child]:
        environment = {"GRADEKEEPER_API_KEY": "gk-hidden-77", "GRADEKEEPER_LOG_LEVEL": "info"}
        with running(mine, tmp_path / "log", **environment) as process:
            yield process

    def test_shows_its_settings_but_no_secrets(self, child: Child) -> None:
        (ready,) = [line for line in child.events() if line["event"] == "ready"]
        assert ready["api_key"] == "***"
        assert ready["max_batch_rows"] == 10_000
        assert "gk-hidden-77" not in json.dumps(child.events())

    def test_sighup_reads_the_definitions_again(self, child: Child, mine: Path) -> None:
        headers = {"api-key": "gk-hidden-77"}
        put(mine, "exact", 2, EXACT | {"operation": "ilike"})
        child.process.send_signal(signal.SIGHUP)
        wait_until(lambda: child.logged("definitions loaded"))
        url = f"{child.url}/v1/graders/exact/versions/latest/score"
        assert httpx.post(url, json=ROW, headers=headers).json()["reward"] == 1.0
        put(mine, "exact", 3, BROKEN)
        child.process.send_signal(signal.SIGHUP)
        wait_until(lambda: child.logged("definitions kept: the new ones are broken"))
        assert httpx.post(url, json=ROW, headers=headers).json()["version"] == 2

    def test_sigterm_finishes_what_was_accepted(self, child: Child) -> None:
        """The last row is sent only after the signal, and still graded."""
        row = json.dumps({"item": {"answer": "x"}, "model_sample": "x"}).encode() + b"\n"
        head = (
            "POST /v1/graders/exact/versions/1/score/batch HTTP/1.1\r\nhost: localhost\r\n"
            "content-type: application/x-ndjson\r\napi-key: gk-hidden-77\r\n"
            f"content-length: {2 * len(row)}\r\n\r\n"
        )
        port = int(child.url.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.settimeout(10)
            client.sendall(head.encode() + row)
            with client.makefile("rb") as answer:
                while not answer.readline().startswith(b'{"reward"'):
                    pass
                child.process.terminate()
                wait_until(lambda: refuses(port))
                client.sendall(row)
                rest = answer.read()
        assert b'"index":1' in rest
        assert b'"summary"' in rest
        assert child.process.wait(20) in {0, -signal.SIGTERM}
        assert child.logged("stopped")

    def test_is_quiet_when_it_is_asked_to_stop_at_once(self, child: Child) -> None:
        assert child.stop() in {0, -signal.SIGTERM}
        levels = {line["level"] for line in child.events()}
        assert levels == {"info"}


def refuses(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except ConnectionRefusedError:
        return True
    except OSError:  # reset while the listener closes
        return False
    return False
