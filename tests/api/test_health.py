"""Operations: whether it lives, whether it is ready, and its own description."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx

from graders.ports import Ports
from service.app import create_app
from service.dialects import DIALECTS
from service.endpoints.documented import _resolved
from tests.api.world import DEFINITIONS, calling, settings


async def test_healthz_says_that_the_process_lives(api: httpx.AsyncClient) -> None:
    response = await api.get("/healthz")
    assert response.status_code == 200
    assert response.json() == {"status": "ok"}


async def test_readyz_names_every_dependency(api: httpx.AsyncClient) -> None:
    response = await api.get("/readyz")
    versions = sum(len(documents) for documents in DEFINITIONS.values())
    assert response.status_code == 200
    assert response.json() == {
        "ready": True,
        "dependencies": {
            "definitions": {
                "ok": True,
                "versions": versions,
                "reload_failed": False,
                "published": 0,
                "unusable": {},
            }
        },
    }


async def test_readyz_is_503_when_a_dependency_is_down(definitions: Path) -> None:
    async def down() -> dict[str, Any]:
        return {"ok": False, "workers": 0}

    app = create_app(settings(definitions), ports=Ports())
    app._app.state.services.checks["sandbox"] = down
    async with calling(app) as client:
        response = await client.get("/readyz")
    assert response.status_code == 503
    assert response.json()["ready"] is False
    assert response.json()["dependencies"]["sandbox"] == {"ok": False, "workers": 0}


async def test_the_schema_page_is_interactive(api: httpx.AsyncClient) -> None:
    for page in ("/schema", "/schema/scalar", "/schema/swagger"):
        response = await api.get(page)
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/html")
        assert "gradekeeper" in response.text


async def test_the_schema_document_describes_every_route(api: httpx.AsyncClient) -> None:
    response = await api.get("/schema/openapi.json")
    document = response.json()
    assert response.status_code == 200
    assert document["openapi"].startswith("3.1")
    rewards = {path for path in document["paths"] if "/rewards/" in path}
    assert {path.rpartition("/rewards/")[2] for path in rewards} == {
        *DIALECTS,
        *("eval-protocol/evaluate", "nemo-gym/verify"),
        *("nemo-gym/seed_session", "nemo-gym/aggregate_metrics"),
    }
    assert set(document["paths"]) - rewards == {
        "/healthz",
        "/metrics",
        "/readyz",
        "/v1/fine_tuning/alpha/graders/run",
        "/v1/fine_tuning/alpha/graders/validate",
        "/v1/graders",
        "/v1/graders/{name}",
        "/v1/graders/{name}/labels/{label}",
        "/v1/graders/{name}/versions",
        "/v1/graders/{name}/versions/{version}",
        "/v1/graders/{name}/versions/{version}/export",
        "/v1/graders/{name}/versions/{version}/score",
        "/v1/graders/{name}/versions/{version}/score/batch",
    }
    operations = [
        operation for methods in document["paths"].values() for operation in methods.values()
    ]
    assert all(operation["summary"] for operation in operations)
    assert len({operation["operationId"] for operation in operations}) == len(operations)


async def test_the_schema_document_takes_ndjson_for_batches(api: httpx.AsyncClient) -> None:
    document = (await api.get("/schema/openapi.json")).json()
    batch = document["paths"]["/v1/graders/{name}/versions/{version}/score/batch"]["post"]
    assert set(batch["requestBody"]["content"]) == {"application/json", "application/x-ndjson"}


def test_references_are_resolved_at_every_depth() -> None:
    schema = {"anyOf": [{"$ref": "#/$defs/Row"}, {"type": "null"}]}
    assert _resolved(schema, {"Row": {"type": "object"}}) == {
        "anyOf": [{"type": "object"}, {"type": "null"}]
    }
