"""Submitted rewards over real processes of the service, with and without a real Redis."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.dialects import DIALECTS
from tests.api.world import running
from tests.bench.servers import gradekeeper
from tests.dialects.world import path
from tests.fakes_upstream import Upstream, completion
from tests.stores.server import RedisServer

pytestmark = pytest.mark.integration
EXAMPLE: Any = DIALECTS["roll"].example
SUBMIT = path("judged", "roll")
POLL = SUBMIT.partition("?")[0]
PROBLEM = "application/problem+json"


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    """Every request on a connection of its own, as ROLL makes them."""
    limits = httpx.Limits(max_keepalive_connections=0)
    async with httpx.AsyncClient(limits=limits, timeout=10) as client:
        yield client


async def submit(client: httpx.AsyncClient, url: str) -> str:
    answer = await client.post(f"{url}{SUBMIT}", json=EXAMPLE)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["reward_request_id"])


async def poll(client: httpx.AsyncClient, url: str, name: str) -> httpx.Response:
    return await client.request("GET", f"{url}{POLL}", json={"reward_request_id": name})


async def score(client: httpx.AsyncClient, url: str, name: str) -> Any:
    """Return the reward once the job has ended; errors on the way are retried as they ask for."""
    for _ in range(500):
        answer = await poll(client, url, name)
        if answer.status_code == 200 and answer.json()["errcode"] == 0:
            return answer.json()["reward_score"]
        assert answer.status_code in {200, 503}, answer.text
        await asyncio.sleep(0.02)
    pytest.fail("no result")


async def test_any_process_answers_and_a_lost_redis_is_a_503(
    graders: Path, tmp_path: Path, client: httpx.AsyncClient
) -> None:
    with contextlib.ExitStack() as stack:
        redis = stack.enter_context(RedisServer())
        async with Upstream(
            lambda _: completion('{"steps": [], "result": 0.75}', delay_s=0.5)
        ) as judge:
            environment = {
                "GRADEKEEPER_REDIS_URL": redis.url,
                "GRADEKEEPER_SANDBOX": "off",
                "OPENAI_BASE_URL": judge.url,
                "OPENAI_API_KEY": "sk-none",
            }
            one, other = (
                stack.enter_context(running(graders, tmp_path / f"{n}.log", **environment)).url
                for n in range(2)
            )
            name = await submit(client, one)
            assert (await poll(client, other, name)).json()["errcode"] == 1
            assert await score(client, other, name) == 0.75
            assert await score(client, one, name) == 0.75

            redis.kill()
            for url in (one, other):
                answer = await poll(client, url, name)
                assert (answer.status_code, answer.headers["content-type"]) == (503, PROBLEM)
                assert answer.json()["retryable"] is True
                assert "retry-after" in answer.headers
            refused = await client.post(f"{one}{SUBMIT}", json=EXAMPLE)
            assert refused.status_code == 503
            redis.start()
            name = await again(client, one)
            assert await score(client, other, name) == 0.75


async def again(client: httpx.AsyncClient, url: str) -> str:
    """Return the name of a sample that is submitted until it is taken."""
    for _ in range(200):
        answer = await client.post(f"{url}{SUBMIT}", json=EXAMPLE)
        if answer.status_code == 200:
            return str(answer.json()["reward_request_id"])
        await asyncio.sleep(0.05)
    pytest.fail("never taken again")


async def test_workers_without_redis_say_that_another_one_knows(
    graders: Path, client: httpx.AsyncClient
) -> None:
    settings = {
        "DEFINITIONS": str(graders),
        "BUNDLED_DEFINITIONS": "false",
        "SANDBOX": "off",
        "WORKERS": "2",
    }
    submit_url = path("exact", "roll")
    with gradekeeper(settings) as server:
        url = f"http://127.0.0.1:{server.port}"
        seen: set[int] = set()
        end = time.monotonic() + 30
        while seen != {200, 503} and time.monotonic() < end:
            answer = await client.post(f"{url}{submit_url}", json=EXAMPLE)
            name = answer.json()["reward_request_id"]
            answer = await client.request(
                "GET", f"{url}{submit_url.partition('?')[0]}", json={"reward_request_id": name}
            )
            seen.add(answer.status_code)
            if answer.status_code == 503:
                assert "GRADEKEEPER_REDIS_URL" in answer.json()["detail"]
                assert await score(client, url, name) == 1.0  # asked until its process answers
        assert seen == {200, 503}
