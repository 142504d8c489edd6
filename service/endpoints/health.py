"""Operations: whether the process lives, whether it can do its work, and its metrics."""

from __future__ import annotations

from typing import Any

from litestar import MediaType, Request, Response, Router, get
from litestar.openapi import ResponseSpec

from service.endpoints.documented import problems
from service.services import Services
from service.wire import Health, Readiness


@get("/healthz", operation_id="healthz", summary="The process lives")
async def healthz() -> Health:
    """Answer as long as the event loop turns."""
    return Health()


@get(
    "/readyz",
    operation_id="readyz",
    summary="Every dependency by name",
    responses={
        503: ResponseSpec(Readiness, description="A dependency is down.", generate_examples=False)
    },
)
async def readyz(request: Request[Any, Any, Any]) -> Response[Readiness]:
    """Return 200 when every dependency that grading needs works, else 503."""
    services: Services = request.app.state.services
    dependencies = {name: await check() for name, check in services.checks.items()}
    ready = all(found.get("ok", True) for found in dependencies.values())
    return Response(
        Readiness(ready=ready, dependencies=dependencies), status_code=200 if ready else 503
    )


@get(
    "/metrics",
    operation_id="metrics",
    summary="Prometheus metrics",
    media_type=MediaType.TEXT,
    responses=problems(401, 403),
)
async def metrics(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Return the series of all workers in Prometheus' text format."""
    services: Services = request.app.state.services
    services.observer.look()
    text, content_type = services.metrics.exposition()
    return Response(text, headers={"content-type": content_type}, media_type=content_type)


def router() -> Router:
    """Return the routes."""
    return Router(path="/", route_handlers=[healthz, readyz, metrics], tags=["Operations"])
