"""Bars of judges and stores, each as a ratio or a count taken in one run.

``python -m tests.bench.bench_judge`` prints a table and exits 1 when a bar is missed. The upstream
is a process of its own; rounds of what is compared are interleaved and the median counts.
"""

from __future__ import annotations

import asyncio
import gc
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from service.judge import JudgeConfig, OpenAIJudge, Route, Routes
from service.judge.client import Upstreams
from service.stores import MemoryStore, RedisStore, StoreConfig
from tests.fakes_upstream import Upstream, completion
from tests.judge.calls import call
from tests.judge.test_replicas import Replica
from tests.judge.worker import Job
from tests.stores.server import RedisServer

IN_FLIGHT = 32
ROUND_S = 2.0
ROUNDS = 3
PROMPT = "Judge the following answer with care. " * 55
ANSWER = msgspec.json.encode(
    {"steps": [{"description": "d" * 180, "conclusion": "c" * 180}], "result": 0.5}
).decode()
Bar = tuple[str, str, str, bool]


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


async def upstream_calls(url: str) -> list[Bar]:
    """Compare the adapter with the official client's plain ``create``."""
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

    found: dict[str, list[tuple[float, float]]] = {"create": [], "judge": [], "post": []}
    for ask_one in (create, ask, post):
        await asyncio.gather(*(ask_one(0) for _ in range(IN_FLIGHT)))
    # As the service does at the end of its start-up; it helps all three.
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)
    for _ in range(ROUNDS):
        for name, ask_one in (("create", create), ("judge", ask), ("post", post)):
            found[name].append(await closed_loop(ask_one))
    await plain.close()
    await judge.close()
    await posts.close()
    rates = {name: statistics.median(rate for rate, _ in runs) for name, runs in found.items()}
    costs = {name: statistics.median(cost for _, cost in runs) for name, runs in found.items()}
    for name in found:
        print(f"  {name:8} {rates[name]:8.0f} calls/s {costs[name]:8.0f} us CPU a call")
    post_ratio, judge_ratio = (rates[name] / rates["create"] for name in ("post", "judge"))
    return [
        (
            "our post / plain create, 32 in flight",
            f"{post_ratio:.2f}x",
            ">= 2.5x",
            post_ratio >= 2.5,
        ),
        ("whole judge() / plain create", f"{judge_ratio:.2f}x", "(no bar)", True),
    ]


async def look_ups(server: RedisServer) -> list[Bar]:
    """Measure batch look-ups and coalesced single ones."""
    store = RedisStore(StoreConfig(url=server.url, timeout_s=2.0))
    keys = [f"{i:064d}" for i in range(1000)]
    await asyncio.gather(*(store.put(key, b"x" * 400, ttl_s=600) for key in keys))
    batches = []
    for _ in range(7):
        cpu = cpu_s()
        for _ in range(200):
            assert len(await store.get_many(keys[:100])) == 100
        batches.append((cpu_s() - cpu) / 20_000 * 1e6)
    singles = []
    for _ in range(7):
        cpu = cpu_s()
        for _ in range(20):
            await asyncio.gather(*(store.get_many((key,)) for key in keys[:256]))
        singles.append((cpu_s() - cpu) / (20 * 256) * 1e6)
    await store.close()
    batch, single = statistics.median(batches), statistics.median(singles)
    return [
        ("batch look-up of 100 keys, CPU a key", f"{batch:.2f} us", "<= 3 us", batch <= 3),
        ("coalesced look-up, 256 at once, CPU a key", f"{single:.2f} us", "(no bar)", True),
    ]


async def hits() -> list[Bar]:
    """Measure a judge call that is answered by a tier: key building and all."""
    says = completion(ANSWER)
    found: dict[str, list[float]] = {}
    async with Upstream(lambda asked: says) as upstream:
        with RedisServer() as server:
            store = RedisStore(StoreConfig(url=server.url, timeout_s=2.0))
            routes = Routes(routes=(Route(name="bench", base_url=upstream.url),))
            near = OpenAIJudge(JudgeConfig(), routes, store)
            far = OpenAIJudge(JudgeConfig(near_entries=0), routes, store)
            calls = [call(f"{PROMPT[:1200]}{i}") for i in range(256)]
            await asyncio.gather(*map(near.judge, calls))
            await asyncio.sleep(0.2)

            async def loop(judge: OpenAIJudge, width: int, turns: int) -> float:
                async def one(start: int) -> None:
                    for turn in range(turns):
                        await judge.judge(calls[(start + turn * width) % 256])

                cpu = cpu_s()
                await asyncio.gather(*map(one, range(width)))
                return (cpu_s() - cpu) / (width * turns) * 1e6

            for _ in range(ROUNDS):
                for name, judge in (("process", near), ("Redis", far)):
                    for width in (32, 256):
                        cost = await loop(judge, width, 6400 // width)
                        found.setdefault(f"hit in {name}, {width} at once, CPU", []).append(cost)
            await near.close()
            await far.close()
            await store.close()
    medians = {name: statistics.median(costs) for name, costs in found.items()}
    return [(name, f"{cost:.1f} us", "(no bar)", True) for name, cost in medians.items()]


async def identical(server: RedisServer) -> list[Bar]:
    """Ask one question 200 times from two processes."""
    upstream_s = 0.3
    slowest, commands, calls = [], [], []
    for _ in range(ROUNDS):
        server.cli("flushall")
        server.cli("config", "resetstat")
        async with Upstream(lambda asked: completion(delay_s=upstream_s)) as upstream:
            job = Job(upstream=upstream.url, redis=server.url, prompts=["same"] * 100)
            replicas = await asyncio.gather(Replica.start(job), Replica.start(job))
            for replica in replicas:
                replica.send()
            results = await asyncio.gather(*(replica.result() for replica in replicas))
        used = server.commands()
        slowest.append(max(result["seconds"] for result in results) - upstream_s)
        commands.append(sum(used.values()) - used.get("config|resetstat", 0))
        calls.append(upstream.count)
    above, most = statistics.median(slowest) * 1000, max(commands)
    return [
        ("200 identical, 2 processes: upstream calls", str(calls), "all 1", set(calls) == {1}),
        ("  Redis commands, scripts' own included", str(most), "<= 30", most <= 30),
        ("  slowest above the upstream's time", f"{above:.0f} ms", "<= 30 ms", above <= 30),
    ]


async def slow() -> None:
    """Hold 1,000 calls of 5 s in this process, upstream included; print peak memory and lag."""
    lags: list[float] = []
    async with Upstream(lambda asked: completion(ANSWER, delay_s=5), keep=False) as upstream:
        route = Route(name="bench", base_url=upstream.url, concurrency=1000)
        judge = OpenAIJudge(JudgeConfig(), Routes(routes=(route,)), MemoryStore())
        await judge.warm()

        async def beat() -> None:
            while True:
                began = time.monotonic()
                await asyncio.sleep(0.005)
                lags.append(time.monotonic() - began - 0.005)

        beating = asyncio.create_task(beat())
        began = time.monotonic()

        async def one(number: int) -> None:
            # Callers do not all come in the same millisecond.
            await asyncio.sleep(number / 250)
            await judge.judge(call(f"{PROMPT}{number}"))

        await asyncio.gather(*map(one, range(1000)))
        seconds = time.monotonic() - began
        beating.cancel()
        await judge.close()
    lag_ms = statistics.quantiles(lags, n=100)[98] * 1000
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    most = upstream.most_in_flight
    print(msgspec.json.encode([peak_mb, lag_ms, seconds, most]).decode())


def slow_calls() -> list[Bar]:
    """Run `slow` in a process of its own."""
    command = [sys.executable, "-m", "tests.bench.bench_judge", "--slow"]
    done = subprocess.run(command, check=True, capture_output=True)
    peak_mb, lag_ms, seconds, most = msgspec.json.decode(done.stdout)
    return [
        ("1,000 calls of 5 s: peak memory", f"{peak_mb:.0f} MB", "<= 500 MB", peak_mb <= 500),
        ("  event loop lag, p99", f"{lag_ms:.0f} ms", "<= 50 ms", lag_ms <= 50),
        (f"  in flight at once {most}, all done in", f"{seconds:.1f} s", "(no bar)", True),
    ]


async def serve() -> None:
    """Be the upstream: print the address, answer at once, forever."""
    says = completion(ANSWER)
    async with Upstream(lambda asked: says, keep=False) as upstream:
        print(upstream.url, flush=True)
        await asyncio.to_thread(sys.stdin.read)


async def main() -> int:
    """Measure everything; return 1 when a bar is missed."""
    command = [sys.executable, "-m", "tests.bench.bench_judge", "--upstream"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # noqa: ASYNC220
    assert process.stdin is not None
    assert process.stdout is not None
    bars = await upstream_calls(process.stdout.readline().strip())
    process.stdin.close()
    process.wait()
    with RedisServer() as server:
        bars += await look_ups(server)
        bars += await identical(server)
    bars += slow_calls()
    bars += await hits()
    for name, value, bar, met in bars:
        print(f"{'ok  ' if met else 'MISS'} {name:45} {value:>12}   {bar}")
    return 0 if all(met for *_, met in bars) else 1


if __name__ == "__main__":
    if sys.argv[1:] == ["--upstream"]:
        asyncio.run(serve())
    elif sys.argv[1:] == ["--slow"]:
        asyncio.run(slow())
    else:
        sys.exit(asyncio.run(main()))
