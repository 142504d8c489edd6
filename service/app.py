"""The composition root: builds every adapter, puts the app together, starts and stops it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from litestar import Litestar
from litestar.datastructures import State
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import ScalarRenderPlugin, SwaggerRenderPlugin

from graders import registry
from graders.building import Options
from graders.metrics import WordNet, WordNetNotFoundError
from graders.ports import Ports
from service import __version__, metrics
from service.auth import KeysError, KeySource
from service.definitions import AdHocGraders, Definitions
from service.edge import Edge
from service.endpoints import health, openai_compat, scores
from service.endpoints import registry as registry_endpoints
from service.endpoints.documented import RawSchemaPlugin
from service.logs import AccessLog, configure, event, write_stderr
from service.problems import handle
from service.services import Services
from service.settings import Settings

logger = logging.getLogger(__name__)

_FLUSH_S = 0.05
_LOOPBACK = {"127.0.0.1", "::1", "localhost"}


class StartError(RuntimeError):
    """The service refuses to start; one sentence says why and what to do."""


def create_app(settings: Settings, *, ports: Ports | None = None) -> Edge:
    """Return the ASGI application.

    Args:
        settings: Effective settings.
        ports: Adapters to use in place of those that the settings ask for.

    Raises:
        BrokenDefinitionsError: A definition cannot be served.
        KeysError: The keys file cannot be used.
        StartError: The service would be open to the network without keys.
    """
    keys = KeySource(settings.api_key, settings.api_keys_file)
    if settings.host not in _LOOPBACK and not len(keys.ring) and not settings.allow_unauthenticated:
        raise StartError(
            f"refusing to listen on {settings.host} without any API key: set GRADEKEEPER_API_KEY "
            "or GRADEKEEPER_API_KEYS_FILE, or GRADEKEEPER_ALLOW_UNAUTHENTICATED=true if a proxy "
            "checks callers"
        )
    series = metrics.Metrics(multiprocess_dir=os.environ.get(metrics.MULTIPROCESS_DIR))
    options = engine_options(settings)
    definitions = Definitions(definition_directories(settings), options, series)
    services = Services(
        settings=settings,
        definitions=definitions,
        adhoc=AdHocGraders(options, settings.run_cache_entries),
        ports=ports or Ports(),
        metrics=series,
        keys=keys,
        checks={"definitions": lambda: _definitions_check(definitions)},
    )
    access_log = (
        AccessLog(write_stderr)
        if settings.access_log and settings.log_level in {"debug", "info"}
        else None
    )
    app = Litestar(
        route_handlers=[
            *openai_compat.routers(),
            scores.router(),
            registry_endpoints.router(),
            health.router(),
        ],
        exception_handlers={Exception: handle},
        lifespan=[lambda _: _running(services, edge)],
        logging_config=None,
        openapi_config=_openapi(),
        plugins=[RawSchemaPlugin()],
        request_max_body_size=settings.max_body_bytes,
        state=State({"services": services, "max_body_bytes": settings.max_body_bytes}),
    )
    edge = Edge(app, keys=keys, metrics=series, access_log=access_log)
    return edge


def app_from_environment() -> Edge:
    """Return the application that the environment asks for; worker processes call this."""
    settings = Settings.from_environment()
    configure(settings.log_level)
    return create_app(settings)


def definition_directories(settings: Settings) -> list[Path]:
    """Return where definitions come from: those that ship, then the operator's."""
    bundled = [registry.BUNDLED] if settings.bundled_definitions else []
    return [*bundled, *(Path(part) for part in settings.definitions.split(":") if part)]


def engine_options(settings: Settings) -> Options:
    """Return how this process compiles definitions."""
    wordnet, hint = find_wordnet(settings.wordnet_dir)
    return Options(
        rendering=settings.rendering,
        max_rendered_chars=settings.max_rendered_chars,
        max_fuzzy_chars=settings.max_fuzzy_chars,
        max_metric_chars=settings.max_metric_chars,
        synonyms=wordnet.synonyms if wordnet else None,
        synonyms_hint=hint,
    )


def find_wordnet(directory: str) -> tuple[WordNet | None, str]:
    """Return WordNet from ``directory`` or the usual places, else how to get it."""
    usual = (Path(sys.prefix) / "share" / "wordnet", Path("/usr/share/wordnet"))
    hint = ""
    for place in (Path(directory),) if directory else usual:
        wordnet = WordNet(place)
        try:
            wordnet.verify()
        except WordNetNotFoundError as error:
            hint = str(error)
        else:
            return wordnet, ""
    return None, hint


def _definitions_check(definitions: Definitions) -> dict[str, Any]:
    """Return the state of the definitions; after a refused reload the old ones still serve."""
    return {
        "ok": True,
        "versions": len(definitions.registry),
        "reload_failed": definitions.failure is not None,
    }


def _openapi() -> OpenAPIConfig:
    return OpenAPIConfig(
        title="gradekeeper",
        version=__version__,
        summary="Self-hosted, versioned graders: OpenAI grader JSON in, rewards out.",
        path="/schema",
        render_plugins=[ScalarRenderPlugin(), SwaggerRenderPlugin()],
    )


@contextlib.asynccontextmanager
async def _running(services: Services, edge: Edge) -> AsyncIterator[None]:
    """Run everything that belongs to a living worker."""
    loop = asyncio.get_running_loop()
    tasks = [loop.create_task(_flushing(edge)), loop.create_task(_watching(services))]
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
        edge.flush()
        services.metrics.mark_stopped()
        event(logger, logging.INFO, "stopped", {})


def _settle_memory() -> None:
    """Keep the collector away from what lives as long as the process (spec/performance.md §3)."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)


async def _flushing(edge: Edge) -> None:
    while True:
        await asyncio.sleep(_FLUSH_S)
        edge.flush()


async def _watching(services: Services) -> None:
    """Look for changed keys every few seconds, and for changed definitions when asked to."""
    pause = services.settings.reload_definitions_s
    while True:
        await asyncio.sleep(pause or 5.0)
        _refresh_keys(services)
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
