"""The composition root: builds every adapter, puts the app together, starts and stops it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
from litestar import Litestar
from litestar.datastructures import State
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import ScalarRenderPlugin, SwaggerRenderPlugin

from graders.ports import Ports
from service import __version__, metrics
from service.adapters import (
    Adapters,
    Check,
    build_adapters,
    definition_directories,
    engine_options,
    running,
)
from service.auth import KeysError, KeySource
from service.baselines import BaselinesError, load_baselines, show_baselines
from service.counting import Counts
from service.definitions import AdHocGraders, Definitions
from service.edge import Edge
from service.endpoints import health, openai_compat, rewards, scores
from service.endpoints import registry as registry_endpoints
from service.endpoints.documented import RawSchemaPlugin
from service.jobs import Jobs
from service.lean import LeanApp
from service.logs import AccessLog, configure, event, write_stderr
from service.observing import Observer
from service.problems import handle
from service.publishing import Publications
from service.services import Services
from service.settings import Settings, environment
from service.shutdowns import Shutdowns
from service.stores import MemoryStore, StoreConfig
from service.tracing import Tracing, TracingError, open_tracing

logger = logging.getLogger(__name__)

_FLUSH_S = 0.05
# Pinned: the page loads this release of the viewer from its public address.
_SCALAR = "1.72.1"
_LOOPBACK = {"127.0.0.1", "::1", "localhost"}


class StartError(RuntimeError):
    """The service refuses to start; one sentence says why and what to do."""


def create_app(
    settings: Settings, *, ports: Ports | None = None, tracing: Tracing | None = None
) -> Edge:
    """Return the ASGI application.

    Args:
        settings: Effective settings.
        ports: Adapters to use in place of those that the settings ask for.
        tracing: Where spans go, in place of where the settings send them.

    Raises:
        BrokenDefinitionsError: A definition cannot be served.
        KeysError: The keys file cannot be used.
        StartError: The service would be open to the network without keys, the baselines file
            cannot be used, or traces cannot be sent as asked for.
    """
    keys = KeySource(settings.api_key, settings.api_keys_file)
    if settings.host not in _LOOPBACK and keys.ring.is_open and not settings.allow_unauthenticated:
        raise StartError(
            f"refusing to listen on {settings.host} without any API key: set GRADEKEEPER_API_KEY "
            "or GRADEKEEPER_API_KEYS_FILE, or GRADEKEEPER_ALLOW_UNAUTHENTICATED=true if a proxy "
            "checks callers"
        )
    series = metrics.Metrics(multiprocess_dir=os.environ.get(metrics.MULTIPROCESS_DIR))
    series.build_info.labels(__version__).set(1)
    _show_baselines(settings, series)
    tracing = tracing or _tracing(settings)
    counts = Counts(series)
    adapters = build_adapters(settings) if ports is None else None
    asked = _watched(adapters.ports if adapters else ports or Ports(), counts, tracing)
    services = _services(settings, keys, counts, adapters, asked)
    access_log = (
        AccessLog(write_stderr)
        if settings.access_log and settings.log_level in {"debug", "info"}
        else None
    )
    app = _routed(services, lambda _: _running(services, edge, adapters, tracing))
    _count_from_zero(app, services.metrics)
    inner = tracing.around(app) if tracing else app
    edge = Edge(inner, keys=keys, counts=services.counts, access_log=access_log)
    return edge


def _count_from_zero(app: LeanApp, series: metrics.Metrics) -> None:
    """Show a zero for what must not happen: from nothing to one is no increase to Prometheus."""
    for route in app.routes:
        for method in getattr(route, "methods", set()) - {"OPTIONS"}:
            series.requests.labels(method, route.path_format, "500")


def _routed(
    services: Services, running: Callable[[Litestar], contextlib.AbstractAsyncContextManager[None]]
) -> LeanApp:
    """Return the application with every route, which lives inside ``running``."""
    settings = services.settings
    return LeanApp(
        route_handlers=[
            *openai_compat.routers(),
            scores.router(),
            rewards.router(),
            registry_endpoints.router(),
            health.router(),
        ],
        exception_handlers={Exception: handle},
        lifespan=[running],
        logging_config=None,
        openapi_config=_openapi(),
        plugins=[RawSchemaPlugin()],
        request_max_body_size=settings.max_body_bytes,
        state=State({"services": services, "max_body_bytes": settings.max_body_bytes}),
    )


def app_from_environment() -> Edge:
    """Return the application that the environment asks for; worker processes call this."""
    settings = Settings.from_environment()
    configure(settings.log_level)
    return create_app(settings)


def _show_baselines(settings: Settings, series: metrics.Metrics) -> None:
    try:
        show_baselines(load_baselines(settings.reward_baselines_file), series)
    except BaselinesError as error:
        raise StartError(f"GRADEKEEPER_REWARD_BASELINES_FILE: {error}") from error


def _tracing(settings: Settings) -> Tracing | None:
    if not settings.tracing:
        return None
    try:
        return open_tracing(environment())
    except TracingError as error:
        raise StartError(f"GRADEKEEPER_TRACING: {error}") from error


def _watched(ports: Ports, counts: Counts, tracing: Tracing | None) -> Ports:
    """Return ``ports`` with what is measured, and what is traced if anything is."""
    watch = counts.watch()
    return tracing.ports(ports, watch) if tracing else msgspec.structs.replace(ports, watch=watch)


def _services(
    settings: Settings,
    keys: KeySource,
    counts: Counts,
    adapters: Adapters | None,
    ports: Ports,
) -> Services:
    """Return what the routes use; graders ask ``ports``."""
    jobs = _jobs(settings, adapters)
    options = engine_options(settings)
    definitions = Definitions(definition_directories(settings), options, counts)
    publications = Publications(
        (adapters.store if adapters else MemoryStore()).documents,
        definitions,
        options,
        most=settings.max_published,
        refusal=_cannot_publish(settings),
    )
    return Services(
        settings=settings,
        definitions=definitions,
        publications=publications,
        adhoc=AdHocGraders(options, settings.run_cache_entries),
        ports=ports,
        metrics=counts.metrics,
        counts=counts,
        keys=keys,
        jobs=jobs,
        checks={
            "definitions": _definitions_check(definitions, publications),
            **(adapters.checks if adapters else {}),
        },
        shutdowns=adapters.shutdowns if adapters else Shutdowns(),
        observer=Observer(counts, jobs, adapters),
    )


def _jobs(settings: Settings, adapters: Adapters | None) -> Jobs:
    """Return the runner of submitted rewards.

    In memory it has a store of its own, where judges' replies do not crowd out results.
    """
    shared = adapters is not None and bool(settings.redis_url)
    own = MemoryStore(StoreConfig(memory_entries=4 * settings.max_submitted_rewards))
    return Jobs(
        adapters.store if adapters is not None and shared else own,
        shared=shared,
        max_running=settings.max_submitted_rewards,
    )


def _cannot_publish(settings: Settings) -> str | None:
    if settings.redis_url or settings.workers == 1:
        return None
    return "publishing where several workers serve needs GRADEKEEPER_REDIS_URL, which they share"


def _definitions_check(definitions: Definitions, publications: Publications) -> Check:
    """Return what shows the definitions; after a refused reload the old ones still serve."""

    async def check() -> dict[str, Any]:
        return {
            "ok": True,
            "versions": len(definitions.registry),
            "reload_failed": definitions.failure is not None,
            **publications.state,
        }

    return check


def _openapi() -> OpenAPIConfig:
    return OpenAPIConfig(
        title="gradekeeper",
        version=__version__,
        summary="Self-hosted, versioned graders: OpenAI grader JSON in, rewards out.",
        path="/schema",
        render_plugins=[ScalarRenderPlugin(version=_SCALAR), SwaggerRenderPlugin()],
    )


@contextlib.asynccontextmanager
async def _running(
    services: Services, edge: Edge, adapters: Adapters | None, tracing: Tracing | None
) -> AsyncIterator[None]:
    """Run everything that belongs to a living worker."""
    async with contextlib.AsyncExitStack() as stack:
        if tracing is not None:
            stack.push_async_callback(tracing.close)
        if adapters is not None:
            await stack.enter_async_context(running(adapters))
        async with _background(services, edge):
            yield


@contextlib.asynccontextmanager
async def _background(services: Services, edge: Edge) -> AsyncIterator[None]:
    """Count, log and watch beside the requests."""
    loop = asyncio.get_running_loop()
    services.metrics.workers.set(1)
    tasks = [
        loop.create_task(_flushing(edge, services.metrics)),
        loop.create_task(_watching(services)),
        loop.create_task(services.publications.follow()),
    ]
    with contextlib.suppress(
        NotImplementedError, RuntimeError, ValueError
    ):  # not in the main thread
        loop.add_signal_handler(signal.SIGHUP, _refresh, services)
    fields = {"version": __version__, **services.settings.masked()}
    event(logger, logging.INFO, "ready", fields)
    _settle_memory()
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await services.jobs.close()
        edge.flush()
        services.metrics.mark_stopped()
        event(logger, logging.INFO, "stopped", {})


def _settle_memory() -> None:
    """Keep the collector away from what lives as long as the process (spec/performance.md §3)."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)


async def _flushing(edge: Edge, series: metrics.Metrics) -> None:
    while True:
        due = time.perf_counter() + _FLUSH_S
        await asyncio.sleep(_FLUSH_S)
        series.late_seconds.inc(max(0.0, time.perf_counter() - due))
        edge.flush()


async def _watching(services: Services) -> None:
    """Look for changed keys every few seconds, and for changed definitions when asked to."""
    pause = services.settings.reload_definitions_s
    while True:
        await asyncio.sleep(pause or 5.0)
        _refresh_keys(services)
        services.observer.look()
        await services.observer.look_at_budgets()
        if pause:
            services.definitions.reload_if_changed()


def _refresh(services: Services) -> None:
    """Read keys and definitions again, on SIGHUP."""
    _refresh_keys(services)
    services.definitions.reload()


def _refresh_keys(services: Services) -> None:
    try:
        if services.keys.refresh():
            event(logger, logging.INFO, "keys loaded", {"keys": len(services.keys.ring)})
    except KeysError as error:
        event(logger, logging.ERROR, "keys kept: the new ones are unusable", {"error": str(error)})
