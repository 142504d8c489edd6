"""The API description, held against the running service by generated requests."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from graders.ports import EmbeddingReply, EndpointReply, Ports, SandboxResult
from service.dialects import DIALECTS
from tests.api import world
from tests.api.world import DEFINITIONS, serving
from tests.fakes import FakeEmbedder, FakeEndpoint, FakeJudge, FakeSandbox, verdict

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    response_headers_conformance,
    unsupported_method,
]
GRADERS = [versions[0] for versions in DEFINITIONS.values()]
VERSIONS = ["1", "latest", "stable", "0", "99999999999999999999", "-1", "1.0", "%00", "é"]


@schemathesis.serializer("application/x-ndjson")
def write_lines(_: Any, value: Any) -> bytes:
    """Write generated rows as lines, and whatever is no row as a line too."""
    return json.dumps(value).encode() + b"\n"


@pytest.fixture(scope="module")
def api_schema(definitions: Path) -> Iterator[Any]:
    ports = Ports(
        judge=FakeJudge(
            lambda call: verdict("good" if call.schema_name == "label_classification" else 0.5)
        ),
        sandbox=FakeSandbox(lambda _: SandboxResult(outcome="value", value=0.5)),
        embedder=FakeEmbedder(lambda c: EmbeddingReply(vectors=((1.0,), (1.0,)), model=c.model)),
        endpoint=FakeEndpoint(lambda _: EndpointReply(body=b'{"score": 1}')),
    )
    with serving(world.settings(definitions, max_body_bytes=100_000), ports) as live:
        yield schemathesis.openapi.from_url(f"{live.url}/schema/openapi.json")


REWARDS = "/v1/graders/{name}/versions/{version}/rewards/"
SUFFIXES = {name: ("", *dialect.suffixes) for name, dialect in DIALECTS.items()}
OPERATIONS = [
    ("/v1/fine_tuning/alpha/graders/run", "POST"),
    ("/v1/fine_tuning/alpha/graders/validate", "POST"),
    ("/v1/graders", "GET"),
    ("/v1/graders/{name}", "GET"),
    ("/v1/graders/{name}/versions", "GET"),
    ("/v1/graders/{name}/versions", "POST"),
    ("/v1/graders/{name}/labels/{label}", "PUT"),
    ("/v1/graders/{name}/labels/{label}", "DELETE"),
    ("/v1/graders/{name}/versions/{version}", "GET"),
    ("/v1/graders/{name}/versions/{version}/export", "GET"),
    ("/v1/graders/{name}/versions/{version}/score", "POST"),
    ("/v1/graders/{name}/versions/{version}/score/batch", "POST"),
    *((f"{REWARDS}{name}{suffix}", "POST") for name in DIALECTS for suffix in SUFFIXES[name]),
    (f"{REWARDS}roll", "GET"),
    (f"{REWARDS}nemo-gym/seed_session", "POST"),
    (f"{REWARDS}nemo-gym/aggregate_metrics", "POST"),
    ("/healthz", "GET"),
    ("/readyz", "GET"),
    ("/metrics", "GET"),
]


def test_every_operation_is_tried(api_schema: Any) -> None:
    described = {
        (path, method.upper())
        for path, methods in api_schema.raw_schema["paths"].items()
        for method in methods
    }
    assert described == set(OPERATIONS)


POSITIVE, NEGATIVE = GenerationMode.POSITIVE, GenerationMode.NEGATIVE
# Where only texts are taken, nothing can be of a wrong type.
MODES = [(path, method, POSITIVE) for path, method in OPERATIONS] + [
    (path, method, NEGATIVE)
    for path, method in OPERATIONS
    if (method == "POST" and not path.endswith("/seed_session")) or path.endswith("/export")
]


@pytest.mark.property
@pytest.mark.parametrize(("path", "method", "mode"), MODES)
def test_the_service_does_what_it_says(
    api_schema: Any, path: str, method: str, mode: GenerationMode
) -> None:
    """No generated request gets a 5xx, or an answer of another shape than the described one."""
    operation = api_schema[path][method]

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=40,
        phases=[Phase.explicit, Phase.generate],  # shrinking takes minutes
        suppress_health_check=list(HealthCheck),
    )
    def check(case: Any) -> None:
        make_likely(case)
        case.call_and_validate(checks=CHECKS, timeout=20)

    check()


def make_likely(case: Any) -> None:
    """Put known graders where random texts would only ever be refused; the rest stays generated.

    Which one follows from the generated text, so that a failure repeats.
    """
    parameters = case.path_parameters
    if parameters and "name" in parameters and not is_odd(parameters["name"]):
        names = sorted(DEFINITIONS)
        parameters["name"] = names[size(parameters["name"]) % len(names)]
        if "version" in parameters and not is_odd(parameters["version"]):
            parameters["version"] = VERSIONS[size(parameters["version"]) % len(VERSIONS)]
    with contextlib.suppress(AttributeError, KeyError, TypeError):
        grader = case.body["grader"]
        if isinstance(grader, dict) and not is_odd(grader):
            known = GRADERS[size(grader) % len(GRADERS)]
            kept = {key: value for key, value in grader.items() if key != "type"}
            case.body["grader"] = {**known, **kept}


def size(value: Any) -> int:
    return len(str(value))


def is_odd(value: Any) -> bool:
    """Return whether a generated value is used as it is: one in five."""
    return size(value) % 5 == 4


def test_every_operation_documents_its_errors(api_schema: Any) -> None:
    document = api_schema.raw_schema
    for path, methods in document["paths"].items():
        for operation in methods.values():
            kind = "application/json" if "fine_tuning" in path else "application/problem+json"
            errors = {
                status: response
                for status, response in operation["responses"].items()
                if status >= "400" and path != "/readyz"
            }
            assert errors or path in {"/healthz", "/readyz"}
            for response in errors.values():
                assert set(response["content"]) == {kind}
                assert response["description"].endswith(".")
