"""OpenTelemetry traces: a span a request, sample, part, judge call and sandbox run.

Off unless ``GRADEKEEPER_TRACING`` is true, and then wrapped around what is there: the application
inside the keys' check, the ports, and the engine's `Watch`. Without it nothing here is imported
and nothing is wrapped. The standard ``OTEL_`` variables say where spans go and how many.

Spans carry names, counts and outcomes. No sample, prompt, reply, URL or key; no exception's message
either, since it may quote them.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from graders.errors import GradingError, UpstreamError
from graders.grade import Grade
from graders.ports import (
    Embedder,
    EmbeddingCall,
    EmbeddingReply,
    EndpointCall,
    EndpointCaller,
    EndpointReply,
    Judge,
    JudgeCall,
    JudgeReply,
    Ports,
    Sandbox,
    SandboxResult,
    SandboxRun,
    Watch,
)
from service import __version__
from service.judge import current_context

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

_QUIET = ("/healthz", "/readyz", "/metrics")  # asked every few seconds, by nobody's request
_CLOSING_S = 3.0  # what a collector that is away may hold up the end of a worker
_SERVER_ERROR = 500
_MISSING = "it needs the packages of `pip install 'gradekeeper[otel]'`"


class TracingError(RuntimeError):
    """Traces cannot be sent as asked for; one sentence says what to change."""


def open_tracing(environ: Mapping[str, str]) -> Tracing:
    """Return tracing as the ``OTEL_`` variables, of which ``environ`` is read here too, ask for it.

    Raises:
        TracingError: The packages are missing, or another exporter than OTLP over HTTP is wanted.
    """
    protocol = environ.get(
        "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
        environ.get("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
    )
    exporter = environ.get("OTEL_TRACES_EXPORTER", "otlp")
    if (exporter, protocol) != ("otlp", "http/protobuf"):
        raise TracingError(
            f"traces go out as otlp over http/protobuf, not as {exporter} over {protocol}"
        )
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415 - optional
            OTLPSpanExporter,
        )
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415 - optional
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415 - optional
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415 - optional
    except ImportError as error:
        raise TracingError(_MISSING) from error
    named = "OTEL_SERVICE_NAME" in environ or "service.name=" in environ.get(
        "OTEL_RESOURCE_ATTRIBUTES", ""
    )
    attributes = {"service.version": __version__}
    if not named:
        attributes["service.name"] = "gradekeeper"
    provider = TracerProvider(resource=Resource.create(attributes), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return Tracing(provider)


class Tracing:
    """Puts spans around what a process does."""

    def __init__(self, provider: TracerProvider) -> None:
        """Send spans through ``provider``."""
        from opentelemetry.trace import SpanKind, StatusCode  # noqa: PLC0415 - optional
        from opentelemetry.trace.propagation.tracecontext import (  # noqa: PLC0415 - optional
            TraceContextTextMapPropagator,
        )

        self._provider = provider
        self._tracer = provider.get_tracer("gradekeeper", __version__)
        self._propagator = TraceContextTextMapPropagator()
        self._kinds = SpanKind
        self._error = StatusCode.ERROR

    @contextmanager
    def span(self, name: str, attributes: Mapping[str, Any], *, outside: bool) -> Iterator[Span]:
        """Give a span around the block, below the one that is open; failures show their code.

        Args:
            name: One of a few.
            attributes: What is known before; see the module for what may not be.
            outside: Whether another process is asked.
        """
        with self._tracer.start_as_current_span(
            name,
            kind=self._kinds.CLIENT if outside else self._kinds.INTERNAL,
            attributes=attributes,
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                yield span
            except BaseException as error:
                self.failed(span, _kind_of(error))
                raise

    def failed(self, span: Span, kind: str) -> None:
        """Mark ``span`` as failed for a reason of this kind."""
        span.set_attribute("error.type", kind)
        span.set_status(self._error)

    def around(self, app: Any) -> TracedApp:  # noqa: ANN401 - any ASGI app
        """Return ``app`` with a span a request."""
        return TracedApp(app, self)

    @contextmanager
    def request(self, scope: Any) -> Iterator[Span]:  # noqa: ANN401 - ASGI
        """Give the span of one request, below the one that the caller's headers name."""
        carrier = {
            name.decode("latin-1"): value.decode("latin-1")
            for name, value in scope["headers"]
            if name in (b"traceparent", b"tracestate")
        }
        with self._tracer.start_as_current_span(
            scope["method"],
            context=self._propagator.extract(carrier),
            kind=self._kinds.SERVER,
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            yield span

    def ports(self, ports: Ports, watch: Watch) -> Ports:
        """Return ``ports`` with spans around what is asked, and around all that ``watch`` sees."""
        return Ports(
            judge=ports.judge and _TracedJudge(ports.judge, self),
            sandbox=ports.sandbox and _TracedSandbox(ports.sandbox, self),
            embedder=ports.embedder and _TracedEmbedder(ports.embedder, self),
            endpoint=ports.endpoint and _TracedEndpoint(ports.endpoint, self),
            watch=_TracedWatch(watch, self),
        )

    async def close(self) -> None:
        """Send what waits; a collector that is away does not hold this up for long."""
        sending = threading.Thread(target=self._provider.shutdown, daemon=True)
        sending.start()
        await asyncio.to_thread(sending.join, _CLOSING_S)


class TracedApp:
    """ASGI application around the application: a span a request, where keys were checked."""

    def __init__(self, app: Any, tracing: Tracing) -> None:  # noqa: ANN401 - any ASGI app
        """Wrap ``app``."""
        self._app = app
        self._tracing = tracing

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401 - ASGI
        """Handle one connection."""
        if scope["type"] != "http" or scope["path"] in _QUIET:
            await self._app(scope, receive, send)
            return
        status = 0

        async def noting(message: Any) -> None:  # noqa: ANN401 - ASGI
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        with self._tracing.request(scope) as span:
            try:
                await self._app(scope, receive, noting)
            except BaseException as error:
                self._tracing.failed(span, _kind_of(error))
                raise
            finally:
                self._describe(span, scope, status)

    def _describe(self, span: Span, scope: Any, status: int) -> None:  # noqa: ANN401 - ASGI
        method, route = scope["method"], scope.get("path_template")
        span.set_attribute("http.request.method", method)
        if route:
            span.update_name(f"{method} {route}")
            span.set_attribute("http.route", route)
        if status:
            span.set_attribute("http.response.status_code", status)
        if status >= _SERVER_ERROR:
            self._tracing.failed(span, str(status))
        if "request_id" in scope:
            span.set_attribute("gradekeeper.request_id", scope["request_id"].decode())
        if scope.get("api_key") is not None:
            span.set_attribute("gradekeeper.key", scope["api_key"].name)


class _TracedWatch:
    def __init__(self, inner: Watch, tracing: Tracing) -> None:
        self._inner = inner
        self._tracing = tracing

    async def whole(self, kind: str, grading: Awaitable[Grade]) -> Grade:
        """Put a span around one sample."""
        attributes = {"gradekeeper.type": kind, "gradekeeper.grader": current_context().grader}
        return await self._graded("grade", attributes, self._inner.whole(kind, grading))

    async def part(self, kind: str, key: str, grading: Awaitable[Grade]) -> Grade:
        """Put a span around one part of a ``multi``."""
        grading = self._inner.part(kind, key, grading)
        if not key:  # a grader on its own, whose span is open
            return await grading
        attributes = {"gradekeeper.type": kind, "gradekeeper.part": key}
        return await self._graded("part", attributes, grading)

    async def _graded(
        self, name: str, attributes: Mapping[str, Any], grading: Awaitable[Grade]
    ) -> Grade:
        with self._tracing.span(name, attributes, outside=False) as span:
            grade = await grading
            span.set_attribute("gradekeeper.reward", grade.reward)
            span.set_attribute("gradekeeper.ok", grade.ok)
            if grade.failures:
                codes = [failure.code for failure in grade.failures]
                span.set_attribute("gradekeeper.failures", codes)
                self._tracing.failed(span, codes[0])
            return grade


class _TracedJudge:
    def __init__(self, inner: Judge, tracing: Tracing) -> None:
        self._inner = inner
        self._tracing = tracing

    async def judge(self, call: JudgeCall) -> JudgeReply:
        """Put a span around one question."""
        attributes = {"gen_ai.operation.name": "chat", "gen_ai.request.model": call.model}
        with self._tracing.span("judge", attributes, outside=True) as span:
            reply = await self._inner.judge(call)
            _answered(span, reply)
            return reply


class _TracedEmbedder:
    def __init__(self, inner: Embedder, tracing: Tracing) -> None:
        self._inner = inner
        self._tracing = tracing

    async def embed(self, call: EmbeddingCall) -> EmbeddingReply:
        """Put a span around one question."""
        attributes = {"gen_ai.operation.name": "embeddings", "gen_ai.request.model": call.model}
        with self._tracing.span("embed", attributes, outside=True) as span:
            reply = await self._inner.embed(call)
            _answered(span, reply)
            return reply


class _TracedSandbox:
    def __init__(self, inner: Sandbox, tracing: Tracing) -> None:
        self._inner = inner
        self._tracing = tracing

    async def run(self, run: SandboxRun) -> SandboxResult:
        """Put a span around one run."""
        attributes = {"gradekeeper.image_tag": run.image_tag}
        with self._tracing.span("sandbox", attributes, outside=True) as span:
            result = await self._inner.run(run)
            span.set_attribute("gradekeeper.outcome", result.outcome)
            span.set_attribute("gradekeeper.execution_time_s", result.execution_time_s)
            if result.outcome != "value":
                self._tracing.failed(span, result.outcome)
            return result


class _TracedEndpoint:
    def __init__(self, inner: EndpointCaller, tracing: Tracing) -> None:
        self._inner = inner
        self._tracing = tracing

    async def call(self, call: EndpointCall) -> EndpointReply:
        """Put a span around one call; of its URL, which may hold a secret, the host is shown."""
        attributes = {"server.address": urlsplit(call.url).hostname or ""}
        with self._tracing.span("endpoint", attributes, outside=True):
            return await self._inner.call(call)


def _answered(span: Span, reply: JudgeReply | EmbeddingReply) -> None:
    """Note who answered, and what it took."""
    span.set_attribute("gen_ai.response.model", reply.model)
    span.set_attribute("gen_ai.usage.input_tokens", reply.usage.prompt_tokens)
    span.set_attribute("gen_ai.usage.output_tokens", reply.usage.completion_tokens)
    span.set_attribute("gradekeeper.cached", reply.cached)
    for name in ("route", "source", "attempts"):
        if name in reply.diagnostics:
            span.set_attribute(f"gradekeeper.judge.{name}", reply.diagnostics[name])


def _kind_of(error: BaseException) -> str:
    """Return what may be shown of ``error``: its code or its class."""
    if isinstance(error, GradingError | UpstreamError):
        return error.code
    return "cancelled" if isinstance(error, asyncio.CancelledError) else type(error).__name__
