"""What the suite `judge` measures in processes of its own, each away from the others' memory.

``python -m tests.bench.judge_calls WHAT ROUNDS`` prints, as JSON, one value a round by figure.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import http.client
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import msgspec

from service.judge import JudgeConfig, OpenAIJudge, Route, Routes
from service.judge.client import Upstreams
from service.stores import MemoryStore, RedisStore, StoreConfig
from tests.bench import traffic
from tests.bench.servers import Server
from tests.bench.upstreams import ANSWER, running
from tests.fakes_upstream import Upstream, completion
from tests.judge.calls import call
from tests.judge.test_replicas import Replica
from tests.judge.worker import Job
from tests.stores.server import RedisServer

IN_FLIGHT = 32
SLOW_CALLS = 1000
ROUND_S = 2.0
PROMPT = "Judge the following answer with care. " * 55
Figures: TypeAlias = dict[str, list[float]]


def cpu_s() -> float:
    """Return CPU seconds of this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def closed_loop(ask: Callable[[int], Awaitable[Any]]) -> tuple[float, float]:
    """Return calls a second and CPU microseconds a call with `IN_FLIGHT` calls at all times."""
    end = time.monotonic() + ROUND_S
    began, cpu = time.monotonic(), cpu_s()
    done = 0

    async def one() -> None:
        nonlocal done
        while time.monotonic() < end:
            done += 1
            await ask(done)

    await asyncio.gather(*(one() for _ in range(IN_FLIGHT)))
    return done / (time.monotonic() - began), (cpu_s() - cpu) / done * 1e6


async def upstream_calls(rounds: int) -> Figures:
    """Compare the adapter with the official client's plain ``create``."""
    with running() as url:
        return await _compared(url, rounds)


async def _compared(url: str, rounds: int) -> Figures:
    import openai

    plain = openai.AsyncOpenAI(base_url=url, api_key="k", max_retries=0)
    judge = OpenAIJudge(
        JudgeConfig(), Routes(routes=(Route(name="bench", base_url=url),)), MemoryStore()
    )
    sent = call(PROMPT)
    form: Any = {
        "type": "json_schema",
        "json_schema": {"name": sent.schema_name, "strict": True, "schema": sent.schema},
    }
    number = 0

    async def create(_: int) -> None:
        messages: Any = [{"role": "user", "content": PROMPT}]
        await plain.chat.completions.create(model="judge", messages=messages, response_format=form)

    async def ask(_: int) -> None:
        nonlocal number
        number += 1
        reply = await judge.judge(call(f"{PROMPT}{number}"))
        assert not reply.cached

    posts = Upstreams()
    target = Routes(routes=(Route(name="bench", base_url=url),)).target("judge")
    assert target is not None
    content = msgspec.json.encode(
        {
            "model": "judge",
            "messages": [{"role": "user", "content": PROMPT}],
            "response_format": form,
        }
    )

    async def post(_: int) -> None:
        await posts.post(target, "/chat/completions", content)

    asks = {"create": create, "judge": ask, "post": post}
    for one in asks.values():
        await asyncio.gather(*(one(0) for _ in range(IN_FLIGHT)))
    # As the service does at the end of its start-up; it helps all three.
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)
    found: Figures = {}
    for _ in range(rounds):
        for name, one in asks.items():
            rate, cost = await closed_loop(one)
            found.setdefault(f"{name} rate", []).append(rate)
            found.setdefault(f"{name} cost", []).append(cost)
    await plain.close()
    await judge.close()
    await posts.close()
    return found


async def look_ups(rounds: int) -> Figures:
    """Measure CPU microseconds a key of batch look-ups and of single ones that travel together."""
    found: Figures = {"batch": [], "single": []}
    with RedisServer() as server:
        store = RedisStore(StoreConfig(url=server.url, timeout_s=2.0))
        keys = [f"{i:064d}" for i in range(1000)]
        await asyncio.gather(*(store.put(key, b"x" * 400, ttl_s=600) for key in keys))
        for _ in range(max(7, rounds)):
            cpu = cpu_s()
            for _ in range(200):
                assert len(await store.get_many(keys[:100])) == 100
            found["batch"].append((cpu_s() - cpu) / 20_000 * 1e6)
            cpu = cpu_s()
            for _ in range(20):
                await asyncio.gather(*(store.get_many((key,)) for key in keys[:256]))
            found["single"].append((cpu_s() - cpu) / (20 * 256) * 1e6)
        await store.close()
    return found


async def identical(rounds: int) -> Figures:
    """Ask one question 200 times from two processes."""
    upstream_s = 0.3
    found: Figures = {"calls": [], "commands": [], "above_ms": []}
    with RedisServer() as server:
        for _ in range(rounds):
            server.cli("flushall")
            server.cli("config", "resetstat")
            async with Upstream(lambda asked: completion(delay_s=upstream_s)) as upstream:
                job = Job(upstream=upstream.url, redis=server.url, prompts=["same"] * 100)
                replicas = await asyncio.gather(Replica.start(job), Replica.start(job))
                for replica in replicas:
                    replica.send()
                results = await asyncio.gather(*(replica.result() for replica in replicas))
            used = server.commands()
            slowest = max(result["seconds"] for result in results)
            found["above_ms"].append((slowest - upstream_s) * 1000)
            found["commands"].append(sum(used.values()) - used.get("config|resetstat", 0))
            found["calls"].append(upstream.count)
    return found


async def slow(_: int) -> Figures:
    """Hold 1,000 calls of 5 s in one service: its peak memory, and how long ``/healthz`` takes."""
    async with Upstream(lambda asked: completion(ANSWER, delay_s=5), keep=False) as upstream:
        with tempfile.NamedTemporaryFile("wb", suffix=".json") as file:
            route = {"name": "bench", "base_url": upstream.url, "concurrency": SLOW_CALLS}
            file.write(msgspec.json.encode({"routes": [route]}))
            file.flush()
            with traffic.service(JUDGE_ROUTES_FILE=file.name) as server:
                await _judged(server, 0)  # the first call imports the client library
                server.forget_peak()
                asked = [asyncio.create_task(_slowly(server, n + 1)) for n in range(SLOW_CALLS)]
                held = asyncio.gather(*asked)
                waits_ms = await asyncio.to_thread(_health_ms, server, held.done)
                await held
                peak_mb = server.peak_rss_mib()
    return {
        "peak_mb": [peak_mb],
        "p99_ms": [statistics.quantiles(waits_ms, n=100)[98]],
        "worst_ms": [max(waits_ms)],
        "at_once": [upstream.most_in_flight],
    }


async def _slowly(server: Server, number: int) -> None:
    """Score one row; callers do not all come in the same millisecond."""
    await asyncio.sleep(number / 250)
    await _judged(server, number)


async def _judged(server: Server, number: int) -> None:
    """Score row ``number`` on a connection of its own.

    Raises:
        RuntimeError: It got no score.
    """
    row = {"item": {"number": number}, "model_sample": PROMPT}
    body = msgspec.json.encode(row)
    head = [
        "POST /v1/graders/judged/versions/1/score HTTP/1.1",
        "Host: bench",
        "Connection: close",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        *(f"{name}: {value}" for name, value in traffic.HEADERS.items()),
    ]
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write("\r\n".join(head).encode() + b"\r\n\r\n" + body)
    answer = await reader.read()
    writer.close()
    if b'"ok":true' not in answer:
        raise RuntimeError(answer[:500].decode(errors="replace"))


def _health_ms(server: Server, done: Callable[[], bool]) -> list[float]:
    """Return how long each health check took, one every 10 ms until ``done``."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    waits: list[float] = []
    with contextlib.closing(connection):
        while not done():
            began = time.perf_counter()
            connection.request("GET", "/healthz")
            connection.getresponse().read()
            waits.append((time.perf_counter() - began) * 1000)
            time.sleep(0.01)
    return waits


MEASURES: dict[str, Callable[[int], Awaitable[Figures]]] = {
    "calls": upstream_calls,
    "look-ups": look_ups,
    "identical": identical,
    "slow": slow,
}


async def main() -> None:
    """Measure what the command line names."""
    found = await MEASURES[sys.argv[1]](int(sys.argv[2]))
    print(msgspec.json.encode(found).decode())


if __name__ == "__main__":
    asyncio.run(main())
