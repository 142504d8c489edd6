"""The middleware: request ids, access lines and counts, and what none of them may carry."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from graders.ports import Ports
from service import __version__
from service import metrics as catalogue
from service.app import create_app
from service.auth import KeySource
from service.counting import Counts
from service.edge import Edge
from service.logs import AccessLog, JsonFormatter, configure, event, write_stderr
from service.metrics import Metrics
from tests.api.world import EXACT, calling, metric, settings
from tests.fakes import FakeJudge, verdict

SCORE = "/v1/graders/exact/versions/1/score"
RUN = "/v1/fine_tuning/alpha/graders/run"
MARKER = "confidential-6f1e"
ROW = {"item": {"answer": MARKER}, "model_sample": MARKER}


class Written:
    """Collects what the access log writes."""

    def __init__(self) -> None:
        self.data = b""

    def __call__(self, data: bytes) -> None:
        self.data += data

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.data.splitlines()]


@pytest.fixture
def written() -> Written:
    return Written()


@pytest.fixture
def edge(app: Edge, written: Written) -> Edge:
    """The application with an access log that tests can read."""
    app._log = AccessLog(written)
    return app


class TestRequestIds:
    @pytest.mark.parametrize(
        "given", ["a", "0d6bb4f8-7ea5-4c2b-9b43-8f1b7c2c9d4e", "trace:1.2_3-4", "x" * 128]
    )
    async def test_a_well_formed_one_is_echoed(self, api: httpx.AsyncClient, given: str) -> None:
        for path in ("/healthz", "/nowhere"):
            response = await api.get(path, headers={"x-request-id": given})
            assert response.headers["x-request-id"] == given

    @pytest.mark.parametrize(
        "given", ["", " ", "a b", "x" * 129, "a\tb", "<script>", "a;b", "a\\n"]
    )
    async def test_a_malformed_one_is_replaced(self, api: httpx.AsyncClient, given: str) -> None:
        response = await api.get("/healthz", headers={"x-request-id": given})
        assert re.fullmatch(r"[0-9a-f]{12}-[0-9a-f]+", response.headers["x-request-id"])

    async def test_made_up_ones_never_repeat(self, api: httpx.AsyncClient) -> None:
        ids = [(await api.get("/healthz")).headers["x-request-id"] for _ in range(50)]
        assert len(set(ids)) == 50

    async def test_stands_in_problems_and_in_the_log(self, edge: Edge, written: Written) -> None:
        async with calling(edge) as client:
            response = await client.get("/v1/graders/no", headers={"x-request-id": "mine"})
        edge.flush()
        assert response.json()["request_id"] == "mine"
        assert written.lines()[0]["request_id"] == "mine"


class TestAccessLog:
    async def test_has_one_json_line_a_request(self, edge: Edge, written: Written) -> None:
        async with calling(edge) as client:
            await client.post(SCORE, json=ROW)
            await client.get("/v1/graders/nobody")
            await client.get("/nowhere")
        assert written.data == b""
        edge.flush()
        lines = written.lines()
        assert [(line["method"], line["route"], line["status"]) for line in lines] == [
            ("POST", "/v1/graders/{name}/versions/{version}/score", 200),
            ("GET", "/v1/graders/{name}", 404),
            ("GET", "(none)", 404),
        ]
        for line in lines:
            assert (line["level"], line["event"]) == ("info", "request")
            assert line["client"] == "127.0.0.1"
            assert 0 <= line["seconds"] < 5
            assert line["time"] > 1_700_000_000
            assert "key" not in line

    async def test_names_the_key_but_does_not_show_it(
        self, definitions: Path, written: Written
    ) -> None:
        app = create_app(settings(definitions, api_key=f"gk-{MARKER}"))
        app._log = AccessLog(written)
        async with calling(app, headers={"authorization": f"Bearer gk-{MARKER}"}) as client:
            await client.post(SCORE, json=ROW)
        app.flush()
        assert written.lines()[0]["key"] == "api_key"
        assert MARKER.encode() not in written.data

    async def test_never_carries_samples_items_names_or_queries(
        self, edge: Edge, written: Written, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG, logger="service")
        async with calling(edge) as client:
            await client.post(SCORE, json=ROW)
            await client.post(SCORE + "/batch", json={"rows": [ROW]})
            await client.post(SCORE, content=MARKER)
            await client.post(SCORE, json={"item": MARKER})
            await client.post(RUN, json={"grader": {**EXACT, "name": MARKER}, **ROW})
            await client.get(f"/v1/graders/{MARKER}")
            await client.get(f"/{MARKER}", params={"q": MARKER})
            text = (await client.get("/metrics")).text
        edge.flush()
        assert len(written.lines()) == 8
        ours = [record for record in caplog.records if not record.name.startswith("httpx")]
        assert MARKER not in written.data.decode() + repr([vars(line) for line in ours]) + text

    async def test_failures_of_ours_are_logged_without_the_sample(
        self, definitions: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        judge = FakeJudge(lambda _: 1 / 0)  # type: ignore[arg-type,return-value]
        app = create_app(settings(definitions), ports=Ports(judge=judge))
        body = {"item": {"question": MARKER}, "model_sample": MARKER}
        async with calling(app) as client:
            response = await client.post(SCORE.replace("exact", "judged"), json=body)
        assert response.status_code == 500
        assert "ZeroDivisionError" in caplog.text
        assert MARKER not in caplog.text

    async def test_is_written_when_many_lines_wait(self, edge: Edge, written: Written) -> None:
        async with calling(edge) as client:
            for _ in range(256):
                await client.get("/healthz")
        assert len(written.lines()) == 256

    @pytest.mark.parametrize(
        "changes", [{"access_log": False}, {"access_log": True, "log_level": "warning"}]
    )
    def test_can_be_switched_off(self, definitions: Path, changes: dict[str, Any]) -> None:
        assert create_app(settings(definitions, **changes))._log is None

    def test_goes_to_standard_error(self, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
        write_stderr(b"{}\n")
        assert capfdbinary.readouterr().err == b"{}\n"

    def test_lines_that_nobody_can_read_are_lost_and_nothing_else(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        reader, writer = os.pipe()
        os.close(reader)
        with open(writer, "w", encoding="utf-8") as broken:  # noqa: PTH123 - a descriptor
            monkeypatch.setattr("sys.stderr", broken)
            write_stderr(b"{}\n")
            with pytest.raises(BrokenPipeError):  # so that closing it again does not
                broken.close()
        monkeypatch.setattr("sys.stderr", broken)
        write_stderr(b"{}\n")


class TestCounts:
    async def test_are_right_after_known_traffic(self, edge: Edge) -> None:
        async with calling(edge) as client:
            for _ in range(3):
                await client.post(SCORE, json=ROW)
            await client.post(SCORE, content=b"{")
            await client.get(SCORE)
            for method in ("PROPFIND", MARKER.upper()):
                await client.request(method, SCORE)
            for number in range(20):
                await client.get(f"/nowhere/{number}")
            edge.flush()
            text = (await client.get("/metrics")).text
        route = "/v1/graders/{name}/versions/{version}/score"
        requests = "gradekeeper_requests_total"
        assert metric(text, f'{requests}{{method="POST",route="{route}",status="200"}}') == 3
        assert metric(text, f'{requests}{{method="POST",route="{route}",status="400"}}') == 1
        assert metric(text, f'{requests}{{method="GET",route="(none)",status="405"}}') == 1
        assert metric(text, f'{requests}{{method="GET",route="(none)",status="404"}}') == 20
        assert metric(text, f'{requests}{{method="(other)",route="(none)",status="405"}}') == 2
        seconds = "gradekeeper_request_duration_seconds_count"
        assert metric(text, f'{seconds}{{route="{route}"}}') == 4
        assert metric(text, "gradekeeper_requests_in_flight") == 0
        grades = 'gradekeeper_grades_total{grader="exact",outcome="ok",version="1"}'
        assert metric(text, grades) == 3

    async def test_unknown_paths_share_one_label(self, edge: Edge) -> None:
        def routes(text: str) -> set[str]:
            return set(re.findall(r'route="([^"]*)"', text))

        async with calling(edge) as client:
            described = routes((await client.get("/metrics")).text)
            for number in range(50):
                await client.get(f"/{number}/{MARKER}")
                await client.get(f"/schema/{number}")
                await client.get(f"/v1/graders/{number}/versions/{number}")
            edge.flush()
            text = (await client.get("/metrics")).text
        assert routes(text) - described == {"(none)"}
        assert not any(re.search(r"\d{2}", route) for route in routes(text))

    async def test_label_values_come_from_fixed_sets(self, edge: Edge) -> None:
        async with calling(edge) as client:
            await client.post("/v1/graders/nobody/versions/7/score", json=ROW)
            await client.post("/v1/graders/exact/versions/stable/score", json=ROW)
            await client.post("/v1/graders/exact/versions/latest/score", json={"model_sample": "x"})
            await client.post(RUN, json={"grader": {**EXACT, "name": MARKER}, **ROW})
            edge.flush()
            text = (await client.get("/metrics")).text
        assert set(re.findall(r'grader="([^"]*)"', text)) == {"exact", "(ad hoc)"}
        assert set(re.findall(r'version="([^"]*)"', text)) == {"1", "2", "", __version__}
        adhoc = 'gradekeeper_grades_total{grader="(ad hoc)",outcome="ok",version=""}'
        assert metric(text, adhoc) == 1
        assert set(re.findall(r'outcome="([^"]*)"', text)) == {"ok", "failed", "upstream"}
        assert set(re.findall(r'code="([^"]*)"', text)) == {"invalid_variable"}

    async def test_what_is_no_http_goes_through(self, definitions: Path) -> None:
        seen: list[Any] = []

        async def inner(scope: Any, receive: Any, send: Any) -> None:
            seen.append(scope["type"])

        app = Edge(inner, keys=KeySource("gk-x", ""), counts=Counts(Metrics()), access_log=None)
        await app({"type": "lifespan"}, None, None)
        assert seen == ["lifespan"]


class TestSeveralWorkers:
    def test_a_scrape_shows_all_and_the_stopped_leave_the_gauges(
        self, tmp_path: Path, definitions: Path
    ) -> None:
        """prometheus-client reads the directory at import, so each worker is a process."""
        program = (
            "import sys; from service.metrics import Metrics, MULTIPROCESS_DIR; import os\n"
            "m = Metrics(multiprocess_dir=os.environ[MULTIPROCESS_DIR])\n"
            "m.requests.labels('GET', '/healthz', '200').inc(2); m.in_flight.set(3)\n"
            "m.definitions.set(5)\n"
            "if len(sys.argv) > 1: m.mark_stopped()\n"
            "sys.stdout.buffer.write(m.exposition()[0])\n"
        )
        environment = {**os.environ, catalogue.MULTIPROCESS_DIR: str(tmp_path)}
        texts = [
            subprocess.run(
                [sys.executable, "-c", program, *extra],
                env=environment,
                check=True,
                capture_output=True,
                text=True,
            ).stdout
            for extra in ([], ["stop"])
        ]
        series = 'gradekeeper_requests_total{method="GET",route="/healthz",status="200"}'
        assert [metric(text, series) for text in texts] == [2, 4]
        assert [metric(text, "gradekeeper_definitions") for text in texts] == [5, 5]
        assert metric(texts[1], "gradekeeper_requests_in_flight") == 3

    def test_an_empty_directory_is_an_empty_scrape(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
        series = Metrics(multiprocess_dir=str(tmp_path))
        assert series.exposition()[0] == b""
        (tmp_path / f"gauge_livesum_{os.getpid()}.db").touch()
        series.mark_stopped()
        assert list(tmp_path.iterdir()) == []


class TestLogs:
    def test_every_record_is_one_json_line(self, capsys: pytest.CaptureFixture[str]) -> None:
        root = logging.getLogger()
        kept, level = root.handlers[:], root.level
        try:
            configure("info")
            logger = logging.getLogger("service.test")
            event(logger, logging.INFO, "something", {"rows": 3})
            event(logger, logging.DEBUG, "unseen", {})
            logger.error("failed", exc_info=ValueError("two\nlines"))
            logging.getLogger("uvicorn.error").warning("from %s", "uvicorn")
        finally:
            root.handlers[:] = kept
            root.setLevel(level)
        lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
        assert [line["event"] for line in lines] == ["something", "failed", "from uvicorn"]
        assert lines[0]["rows"] == 3
        assert lines[0]["level"] == "info"
        assert lines[0]["logger"] == "service.test"
        assert "ValueError" in lines[1]["traceback"]
        assert lines[0]["time"].endswith("+00:00")

    def test_a_record_of_another_library_needs_no_fields(self) -> None:
        record = logging.LogRecord("x", logging.WARNING, "f.py", 1, "hello %d", (1,), None)
        assert json.loads(JsonFormatter().format(record))["event"] == "hello 1"


def test_verdicts_of_the_fakes_are_what_graders_read() -> None:
    assert json.loads(verdict("good").content or "")["result"] == "good"


async def test_a_first_500_is_an_increase_on_every_route(definitions: Path) -> None:
    async with calling(create_app(settings(definitions))) as client:
        text = (await client.get("/metrics")).text
    route = "/v1/graders/{name}/versions/{version}/score"
    series = f'gradekeeper_requests_total{{method="POST",route="{route}",status="500"}}'
    assert metric(text, series) == 0
