"""Traces: who is whose parent, what spans say and must not say, and what they cost when off."""

from __future__ import annotations

import gzip
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from graders.errors import JudgeUnavailableError
from graders.grade import TokenUsage
from graders.ports import EmbeddingReply, EndpointReply, JudgeReply, Ports, SandboxResult
from service.app import StartError, create_app
from service.edge import Edge
from service.lean import LeanApp
from service.tracing import Tracing, TracingError, open_tracing
from tests.api.world import MIXED, calling, running, settings, wait_until, write_definitions
from tests.fakes import FakeEmbedder, FakeEndpoint, FakeJudge, FakeSandbox
from tests.stores.server import free_port

MARKER = "confidential-91c2"
TRACE = "0af7651916cd43dd8448eb211c80319c"
CALLER = "b7ad6b7169203331"
TRACEPARENT = {"traceparent": f"00-{TRACE}-{CALLER}-01", "tracestate": "vendor=1"}
ROW = {"item": {"answer": MARKER, "question": MARKER}, "model_sample": MARKER}
SECRET_ENDPOINT = f"https://grader.example/{MARKER}?token={MARKER}"


def reply() -> JudgeReply:
    return JudgeReply(
        content='{"steps": [], "result": 0.5}',
        model="judge-1",
        usage=TokenUsage(prompt_tokens=100, completion_tokens=20, total_tokens=120),
        diagnostics={"route": "main", "source": "leader", "attempts": 2},
    )


class Traced:
    """The application with spans kept in memory.

    Attributes:
        judge: Answers questions to judge models.
    """

    def __init__(self, directory: Path, **changes: Any) -> None:
        self._exporter = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.judge = FakeJudge(lambda _: reply())
        self.sandbox = FakeSandbox(
            lambda _: SandboxResult(outcome="value", value=0.5, stdout=MARKER, execution_time_s=0.1)
        )
        ports = Ports(
            judge=self.judge,
            sandbox=self.sandbox,
            embedder=FakeEmbedder(
                lambda call: EmbeddingReply(vectors=((1.0,), (1.0,)), model=call.model)
            ),
            endpoint=FakeEndpoint(lambda _: EndpointReply(body=b'{"score": 0.25}')),
        )
        self.tracing = Tracing(provider)
        self.app = create_app(settings(directory, **changes), ports=ports, tracing=self.tracing)

    def spans(self) -> dict[str, ReadableSpan]:
        """The spans that ended, by name; of parts with their keys."""
        return {named(span): span for span in self._exporter.get_finished_spans()}

    def all(self) -> list[ReadableSpan]:
        return list(self._exporter.get_finished_spans())

    async def post(self, path: str, body: Any = ROW, **headers: str) -> httpx.Response:
        async with calling(self.app) as client:
            return await client.post(path, json=body, headers=headers)


def named(span: ReadableSpan) -> str:
    part = attributes(span).get("gradekeeper.part")
    return f"{span.name} {part}" if part else span.name


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def is_child(child: ReadableSpan, parent: ReadableSpan) -> bool:
    return child.parent is not None and child.parent.span_id == parent.context.span_id


@pytest.fixture(scope="session")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.api.world import DEFINITIONS, REMOTE

    secret = {**REMOTE, "url": SECRET_ENDPOINT, "headers": {"authorization": MARKER}}
    place = tmp_path_factory.mktemp("definitions")
    return write_definitions(place, {**DEFINITIONS, "remote": [secret]})


@pytest.fixture
def traced(directory: Path) -> Traced:
    return Traced(directory)


def score(name: str) -> str:
    return f"/v1/graders/{name}/versions/1/score"


SCORE = "POST /v1/graders/{name}/versions/{version}/score"


class TestRequests:
    async def test_are_children_of_what_the_caller_says(self, traced: Traced) -> None:
        response = await traced.post(score("exact"), **TRACEPARENT)
        (span,) = traced.all()
        assert span.name == SCORE
        assert span.kind.name == "SERVER"
        assert f"{span.context.trace_id:032x}" == TRACE
        assert span.parent is not None
        assert f"{span.parent.span_id:016x}" == CALLER
        assert span.context.trace_state.get("vendor") == "1"
        assert attributes(span) == {
            "http.request.method": "POST",
            "http.route": "/v1/graders/{name}/versions/{version}/score",
            "http.response.status_code": 200,
            "gradekeeper.request_id": response.headers["x-request-id"],
        }

    @pytest.mark.parametrize("header", [{}, {"traceparent": "00-nonsense"}])
    async def test_without_a_caller_begin_a_trace(
        self, traced: Traced, header: dict[str, str]
    ) -> None:
        await traced.post(score("exact"), **header)
        (span,) = traced.all()
        assert span.parent is None

    async def test_that_the_caller_does_not_sample_leave_nothing(self, traced: Traced) -> None:
        response = await traced.post(score("mixed"), traceparent=f"00-{TRACE}-{CALLER}-00")
        assert response.json()["reward"] == 0.75
        assert traced.all() == []

    async def test_of_probes_and_without_a_key_leave_nothing(self, directory: Path) -> None:
        traced = Traced(directory, api_key="gk-right")
        async with calling(traced.app) as client:
            for path in ("/healthz", "/readyz", "/metrics"):
                await client.get(path, headers={"authorization": "Bearer gk-right"})
        assert (await traced.post(score("exact"), authorization="Bearer gk-wrong")).is_error
        assert traced.all() == []
        await traced.post(score("exact"), authorization="Bearer gk-right")
        assert attributes(traced.all()[0])["gradekeeper.key"] == "api_key"

    async def test_show_errors_of_ours_and_not_those_of_callers(self, traced: Traced) -> None:
        await traced.post(f"/{MARKER}")
        traced.judge.script = lambda _: ZeroDivisionError(MARKER)
        await traced.post(score("judged"))
        missing, failed = traced.spans()["POST"], traced.spans()[SCORE]
        assert attributes(missing)["http.response.status_code"] == 404
        assert missing.status.status_code is StatusCode.UNSET
        assert (attributes(failed)["error.type"], failed.status.status_code) == (
            "500",
            StatusCode.ERROR,
        )
        assert attributes(traced.spans()["judge"])["error.type"] == "ZeroDivisionError"

    async def test_that_the_application_breaks_off_are_ended(self, traced: Traced) -> None:
        async def broken(scope: Any, receive: Any, send: Any) -> None:
            raise ConnectionError(MARKER)

        scope = {"type": "http", "path": "/x", "method": "GET", "headers": []}
        with pytest.raises(ConnectionError):
            await traced.tracing.around(broken)(scope, None, None)
        assert attributes(traced.spans()["GET"])["error.type"] == "ConnectionError"

    async def test_what_is_no_http_goes_through(self, traced: Traced) -> None:
        seen: list[str] = []

        async def inner(scope: Any, receive: Any, send: Any) -> None:
            seen.append(scope["type"])

        await traced.tracing.around(inner)({"type": "lifespan"}, None, None)
        assert seen == ["lifespan"]
        assert traced.all() == []


class TestGrades:
    async def test_of_a_multi_have_their_parts_and_those_their_judge(self, traced: Traced) -> None:
        assert (await traced.post(score("mixed"))).json()["reward"] == 0.75
        spans = traced.spans()
        assert spans.keys() == {SCORE, "grade", "part same", "part judged", "judge"}
        assert is_child(spans["grade"], spans[SCORE])
        assert is_child(spans["part same"], spans["grade"])
        assert is_child(spans["part judged"], spans["grade"])
        assert is_child(spans["judge"], spans["part judged"])
        assert attributes(spans["grade"]) == {
            "gradekeeper.type": "multi",
            "gradekeeper.grader": "mixed@1",
            "gradekeeper.reward": 0.75,
            "gradekeeper.ok": True,
        }
        assert attributes(spans["part judged"])["gradekeeper.type"] == "score_model"
        assert attributes(spans["judge"]) == {
            "gen_ai.operation.name": "chat",
            "gen_ai.request.model": "gpt-4o-2024-08-06",
            "gen_ai.response.model": "judge-1",
            "gen_ai.usage.input_tokens": 100,
            "gen_ai.usage.output_tokens": 20,
            "gradekeeper.cached": False,
            "gradekeeper.judge.route": "main",
            "gradekeeper.judge.source": "leader",
            "gradekeeper.judge.attempts": 2,
        }

    @pytest.mark.parametrize("body", ["batch", "stream"])
    async def test_of_many_rows_are_all_below_the_request(self, traced: Traced, body: str) -> None:
        path = f"{score('judged')}/batch"
        if body == "batch":
            await traced.post(path, {"rows": [ROW] * 3})
        else:
            async with calling(traced.app) as client:
                line = httpx.Request("POST", "http://x", json=ROW).content + b"\n"
                headers = {"content-type": "application/x-ndjson"}
                await client.post(path, content=line * 3, headers=headers)
        request = traced.spans()[f"{SCORE}/batch"]
        grades = [span for span in traced.all() if span.name == "grade"]
        assert len(grades) == 3
        assert all(is_child(grade, request) for grade in grades)
        judges = [span for span in traced.all() if span.name == "judge"]
        assert {span.parent.span_id for span in judges if span.parent} == {
            grade.context.span_id for grade in grades
        }

    async def test_of_each_kind_show_what_was_asked(self, traced: Traced) -> None:
        for name in ("coded", "meaning", "remote"):
            await traced.post(score(name))
        spans = traced.spans()
        assert attributes(spans["sandbox"]) == {
            "gradekeeper.image_tag": "2025-05-08",
            "gradekeeper.outcome": "value",
            "gradekeeper.execution_time_s": 0.1,
        }
        assert attributes(spans["embed"])["gen_ai.request.model"] == "text-embedding-3-large"
        assert attributes(spans["endpoint"]) == {"server.address": "grader.example"}
        assert {spans[name].kind.name for name in ("sandbox", "embed", "endpoint")} == {"CLIENT"}

    async def test_that_fail_say_how(self, traced: Traced) -> None:
        traced.judge.script = lambda _: JudgeUnavailableError(MARKER)
        assert (await traced.post(score("judged"))).status_code == 503
        spans = traced.spans()
        for name in ("judge", "grade"):
            assert attributes(spans[name])["error.type"] == "judge_unavailable"
            assert spans[name].status.status_code is StatusCode.ERROR
        assert attributes(spans["grade"])["gradekeeper.failures"] == ("judge_unavailable",)
        traced.sandbox.script = lambda _: SandboxResult(outcome="timeout", details=MARKER)
        await traced.post(score("coded"))
        assert attributes(traced.spans()["sandbox"])["error.type"] == "timeout"

    async def test_of_pure_graders_cost_no_spans_of_their_own(self, traced: Traced) -> None:
        await traced.post(score("parts"))
        assert traced.spans().keys() == {SCORE}


async def test_no_span_tells_of_samples_or_secrets(directory: Path) -> None:
    traced = Traced(directory, api_key=f"gk-{MARKER}")
    key = {"authorization": f"Bearer gk-{MARKER}"}
    for name in ("exact", "judged", "labelled", "coded", "meaning", "remote", "mixed"):
        await traced.post(f"{score(name)}?debug=true&x={MARKER}", **key)
        await traced.post(f"{score(name)}/batch", {"rows": [ROW, {"model_sample": MARKER}]}, **key)
    adhoc = {**MIXED, "name": MARKER}
    run = {"grader": adhoc, **ROW}
    assert (await traced.post("/v1/fine_tuning/alpha/graders/run", run, **key)).is_success
    await traced.post(f"/v1/graders/{MARKER}/versions/{MARKER}/score", **key)
    for script in (lambda _: JudgeUnavailableError(MARKER), lambda _: ValueError(MARKER)):
        traced.judge.script = script
        await traced.post(score("judged"), **key)
    assert len(traced.all()) > 40
    for span in traced.all():
        assert MARKER not in span.to_json()


class TestOff:
    def test_nothing_is_wrapped(self, directory: Path) -> None:
        ports = Ports(judge=FakeJudge(lambda _: reply()))
        app = create_app(settings(directory), ports=ports)
        inner = app._app
        assert type(inner) is LeanApp
        assert inner.state.services.ports.judge is ports.judge

    def test_nothing_is_imported(self, directory: Path) -> None:
        program = (
            "import sys; from service.app import app_from_environment; app_from_environment()\n"
            # litestar looks for the names of attributes, if they are installed
            "print([name for name in sys.modules if name.startswith('opentelemetry')\n"
            "       and not name.startswith('opentelemetry.semconv') and '.' in name])"
        )
        environment = {"GRADEKEEPER_DEFINITIONS": str(directory), "PYTHONPATH": ":".join(sys.path)}
        done = subprocess.run(
            [sys.executable, "-c", program],
            env={**environment, "GRADEKEEPER_SANDBOX": "off"},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout == "[]\n"


class TestRefusals:
    @pytest.mark.parametrize(
        ("variables", "wanted"),
        [
            ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "not as otlp over grpc"),
            ({"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/json"}, "not as otlp over http/json"),
            ({"OTEL_TRACES_EXPORTER": "zipkin"}, "not as zipkin over http/protobuf"),
        ],
    )
    def test_of_exporters_that_there_are_not(self, variables: dict[str, str], wanted: str) -> None:
        with pytest.raises(TracingError) as caught:
            open_tracing(variables)
        assert wanted in str(caught.value)

    def test_without_the_packages(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
        with pytest.raises(StartError, match=r"^GRADEKEEPER_TRACING: .*gradekeeper\[otel\]"):
            create_app(settings(directory, tracing=True), ports=Ports())


class Collector:
    """An OTLP/HTTP receiver on loopback.

    Attributes:
        received: Requests for traces, in order.
        url: Its base URL.
    """

    def __init__(self) -> None:
        self.received: list[ExportTraceServiceRequest] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                assert (self.path, self.headers["x-token"]) == ("/v1/traces", "t")
                collector.received.append(ExportTraceServiceRequest.FromString(body))
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def spans(self) -> list[Any]:
        return [
            span
            for request in self.received
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def resource(self) -> dict[str, str]:
        (resource,) = self.received[0].resource_spans
        return {one.key: one.value.string_value for one in resource.resource.attributes}


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        yield collector


Variables = Callable[[str], dict[str, str]]


def variables(url: str, **others: str) -> dict[str, str]:
    return {
        "GRADEKEEPER_TRACING": "true",
        "GRADEKEEPER_SANDBOX": "off",
        "OTEL_EXPORTER_OTLP_ENDPOINT": url,
        "OTEL_EXPORTER_OTLP_HEADERS": "x-token=t",
        "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
        **others,
    }


@pytest.mark.integration
class TestCollector:
    def test_gets_spans_as_they_come_and_the_last_at_the_end(
        self, directory: Path, tmp_path: Path, collector: Collector
    ) -> None:
        environment = variables(collector.url, OTEL_BSP_SCHEDULE_DELAY="50")
        with running(directory, tmp_path / "log", **environment) as child:
            httpx.post(child.url + score("exact"), json=ROW, headers=TRACEPARENT)
            wait_until(collector.spans)
            (span,) = collector.spans()
            assert (span.name, span.trace_id.hex(), span.parent_span_id.hex()) == (
                SCORE,
                TRACE,
                CALLER,
            )
            assert collector.resource()["service.name"] == "gradekeeper"
            httpx.post(child.url + score("judged"), json=ROW)
            assert child.stop() == -signal.SIGTERM
        names = [span.name for span in collector.spans()]
        assert sorted(names[1:]) == sorted([SCORE, "grade", "judge"])

    def test_may_call_the_service_by_another_name(
        self, directory: Path, tmp_path: Path, collector: Collector
    ) -> None:
        environment = variables(collector.url, OTEL_SERVICE_NAME="rewards")
        with running(directory, tmp_path / "log", **environment) as child:
            httpx.post(child.url + score("exact"), json=ROW)
            assert child.stop() == -signal.SIGTERM
        assert collector.resource()["service.name"] == "rewards"

    async def test_gets_spans_of_an_application_that_others_run(
        self, directory: Path, collector: Collector, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name, value in variables(collector.url).items():
            if name.startswith("OTEL_"):
                monkeypatch.setenv(name, value)
        app = create_app(settings(directory, tracing=True), ports=Ports())
        messages = iter(["lifespan.startup", "lifespan.shutdown"])

        async def receive() -> Any:
            kind = next(messages)
            if kind == "lifespan.shutdown":
                async with calling(app) as client:
                    await client.post(score("exact"), json=ROW)
            return {"type": kind}

        async def send(message: Any) -> None:
            assert message["type"].endswith(".complete")

        await app({"type": "lifespan", "state": {}}, receive, send)
        assert [span.name for span in collector.spans()] == [SCORE]
        assert collector.resource()["service.name"] == "gradekeeper"

    def test_that_is_away_holds_nobody_up(self, directory: Path, tmp_path: Path) -> None:
        environment = variables(f"http://127.0.0.1:{free_port()}", OTEL_BSP_SCHEDULE_DELAY="50")
        with running(directory, tmp_path / "log", **environment) as child:
            for _ in range(20):
                assert httpx.post(child.url + score("exact"), json=ROW).json()["reward"] == 1.0
            began = time.monotonic()
            assert child.stop() == -signal.SIGTERM
            assert time.monotonic() - began < 6
            assert MARKER not in (tmp_path / "log").read_text()


def test_the_wrapped_application_is_still_an_edge(traced: Traced) -> None:
    assert isinstance(traced.app, Edge)
