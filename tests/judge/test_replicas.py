"""Two processes, one Redis, one upstream: asked once, paid once, whoever dies."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.fakes_upstream import Upstream, completion, error
from tests.judge.worker import Job
from tests.stores.server import RedisServer

pytestmark = [pytest.mark.integration, pytest.mark.serial]
ROOT = Path(__file__).parents[2]


class Replica:
    """A worker process and its pipe."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    @classmethod
    async def start(cls, job: Job) -> Replica:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "tests.judge.worker"),
            cwd=ROOT,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        replica = cls(process)
        replica.send(msgspec.json.encode(job))
        assert await replica.line() == "ready"
        return replica

    def send(self, line: bytes = b"") -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + b"\n")

    async def line(self) -> str:
        assert self.process.stdout is not None
        async with asyncio.timeout(60):
            return (await self.process.stdout.readline()).decode().strip()

    async def result(self) -> dict[str, Any]:
        found: dict[str, Any] = msgspec.json.decode(await self.line())
        await self.process.wait()
        return found


async def run(*jobs: Job) -> list[dict[str, Any]]:
    """Return what the replicas of ``jobs`` say, started at the same time."""
    replicas = await asyncio.gather(*map(Replica.start, jobs))
    for replica in replicas:
        replica.send()
    return await asyncio.gather(*(replica.result() for replica in replicas))


async def test_identical_questions_of_two_processes_are_one_upstream_call(
    redis_server: RedisServer,
) -> None:
    async with Upstream(lambda asked: completion(delay_s=0.3)) as upstream:
        job = Job(upstream=upstream.url, redis=redis_server.url, prompts=["same"] * 100)
        redis_server.cli("flushall")
        redis_server.cli("config", "resetstat")
        results = await run(job, job)
        assert upstream.count == 1
        assert all(set(result["answers"]) == {'{"steps": [], "result": 1}'} for result in results)
        commands = redis_server.commands()
        assert sum(commands.values()) <= 30, commands


async def test_different_questions_are_asked_once_each_within_the_shared_concurrency(
    redis_server: RedisServer,
) -> None:
    redis_server.cli("flushall")
    async with Upstream(lambda asked: completion(delay_s=0.02)) as upstream:
        prompts = [f"question {i}" for i in range(200)]
        job = Job(
            upstream=upstream.url,
            redis=redis_server.url,
            prompts=prompts[:100],
            concurrency=16,
            share=2,
        )
        other = msgspec.structs.replace(job, prompts=prompts[100:])
        results = await run(job, other)
        assert upstream.count == 200
        assert max(upstream.prompts.values()) == 1
        assert upstream.most_in_flight <= 16
        assert not [a for result in results for a in result["answers"] if "failed" in a]


async def test_followers_of_a_killed_leader_get_an_answer_with_one_more_call(
    redis_server: RedisServer,
) -> None:
    redis_server.cli("flushall")
    async with Upstream(lambda asked: completion(delay_s=2.0)) as upstream:
        job = Job(upstream=upstream.url, redis=redis_server.url, prompts=["same"] * 50)
        leader, follower = await asyncio.gather(Replica.start(job), Replica.start(job))
        leader.send()
        await upstream.reached(1)
        follower.send()
        await asyncio.sleep(0.3)
        leader.process.kill()
        result = await follower.result()
        await leader.process.wait()
        assert set(result["answers"]) == {'{"steps": [], "result": 1}'}
        assert result["flights"]["taken_over"] == 1
        assert upstream.count == 2


async def test_failure_of_a_leader_reaches_all_replicas_without_a_herd(
    redis_server: RedisServer,
) -> None:
    redis_server.cli("flushall")
    async with Upstream(lambda asked: msgspec.structs.replace(error(404), delay_s=0.5)) as upstream:
        job = Job(upstream=upstream.url, redis=redis_server.url, prompts=["same"] * 50)
        results = await run(job, job)
        assert upstream.count == 1
        assert {a for result in results for a in result["answers"]} == {"failed:http_404"}
