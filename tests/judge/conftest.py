"""Judges over a scripted upstream and, where it matters, a real Redis."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from service.judge import JudgeConfig, OpenAIJudge, Route, Routes
from service.stores import MemoryStore, Store
from tests.fakes_upstream import Upstream
from tests.stores.server import RedisServer

MakeJudge = Callable[..., OpenAIJudge]


@pytest.fixture(scope="module")
def redis_server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    async with Upstream() as server:
        yield server


@pytest.fixture
async def make_judge(upstream: Upstream) -> AsyncIterator[MakeJudge]:
    """Return a function that makes a judge: fields of `Route`, `config` and `store`."""
    made: list[OpenAIJudge] = []

    def make(
        config: JudgeConfig | None = None,
        store: Store | None = None,
        routes: Routes | None = None,
        **route: Any,
    ) -> OpenAIJudge:
        only = Route(**({"name": "test", "base_url": upstream.url} | route))
        judge = OpenAIJudge(
            config or JudgeConfig(),
            routes or Routes(routes=(only,), api_keys={"test": "sk-secret"}),
            store or MemoryStore(),
        )
        made.append(judge)
        return judge

    yield make
    for judge in made:
        await judge.close()
