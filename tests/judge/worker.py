"""One replica as a process of its own: asks what it is told on stdin, prints what it got.

Run by `test_replicas` and by the benchmark: one JSON line in, one JSON line out.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import time
from typing import Any

import msgspec

from graders.errors import UpstreamError
from service.judge import JudgeConfig, OpenAIJudge, Route, Routes
from service.stores import RedisStore, StoreConfig
from tests.judge.calls import call


class Job(msgspec.Struct, kw_only=True):
    """What one replica does."""

    upstream: str
    redis: str
    prompts: list[str]
    concurrency: int = 128
    lease_s: float = 1.5
    redis_timeout_s: float = 1.0
    deadline_s: float = 30.0
    share: int = 1


async def _ask(judge: OpenAIJudge, prompt: str) -> str:
    try:
        return (await judge.judge(call(prompt))).content or ""
    except UpstreamError as error:
        return f"failed:{error.kind}"


async def _run(job: Job) -> dict[str, Any]:
    store = RedisStore(StoreConfig(url=job.redis, timeout_s=job.redis_timeout_s))
    route = Route(name="test", base_url=job.upstream, concurrency=job.concurrency)
    judge = OpenAIJudge(
        JudgeConfig(lease_s=job.lease_s, deadline_s=job.deadline_s, share=job.share),
        Routes(routes=(route,)),
        store,
    )
    await judge.warm()
    await store.check()
    gc.collect()  # as the service does before it is ready: a full collection takes 60 ms
    gc.freeze()
    print("ready", flush=True)  # noqa: T201 - the protocol of this process
    await asyncio.to_thread(sys.stdin.readline)
    began = time.monotonic()
    answers = await asyncio.gather(*(_ask(judge, prompt) for prompt in job.prompts))
    seconds = time.monotonic() - began
    await judge.close()
    await store.close()
    return {"answers": answers, "seconds": seconds, "flights": dict(judge.stats.flights)}


def main() -> None:
    """Run the job of the first line; start when the second arrives."""
    job = msgspec.json.decode(sys.stdin.readline(), type=Job)
    print(msgspec.json.encode(asyncio.run(_run(job))).decode(), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
