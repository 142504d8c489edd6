"""The service as most tests see it: all definitions, scripted ports, no keys."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from graders.ports import EmbeddingReply, EndpointReply, Ports, SandboxResult
from service.app import create_app
from service.edge import Edge
from tests.api.world import Live, calling, serving, settings, write_definitions
from tests.fakes import FakeEmbedder, FakeEndpoint, FakeJudge, FakeSandbox, verdict


@pytest.fixture(scope="session")
def definitions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with every kind of grader; not to be changed."""
    return write_definitions(tmp_path_factory.mktemp("definitions"))


@pytest.fixture
def judge() -> FakeJudge:
    """A judge that gives 0.75, or the good label."""
    return FakeJudge(
        lambda call: verdict("good" if call.schema_name == "label_classification" else 0.75)
    )


@pytest.fixture
def ports(judge: FakeJudge) -> Ports:
    """Ports that all answer."""
    return Ports(
        judge=judge,
        sandbox=FakeSandbox(
            lambda _: SandboxResult(outcome="value", value=0.5, stdout="hello from the grader")
        ),
        embedder=FakeEmbedder(
            lambda call: EmbeddingReply(vectors=((1.0, 0.0), (1.0, 0.0)), model=call.model)
        ),
        endpoint=FakeEndpoint(lambda _: EndpointReply(body=b'{"score": 0.25}')),
    )


@pytest.fixture
def app(definitions: Path, ports: Ports) -> Edge:
    """The application with all ports."""
    return create_app(settings(definitions), ports=ports)


@pytest.fixture
async def api(app: Edge) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the application, without a socket."""
    async with calling(app) as client:
        yield client


@pytest.fixture
async def bare(definitions: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an application that has no ports."""
    async with calling(create_app(settings(definitions), ports=Ports())) as client:
        yield client


@pytest.fixture
def live(definitions: Path, ports: Ports) -> Iterator[Live]:
    """The application with all ports behind a real server."""
    with serving(settings(definitions), ports) as server:
        yield server
