"""Judges: what the cache, the way to the upstream, and many slow calls cost.

Hits are measured over HTTP with every connection asking another question, beside the same service
whose judge is a constant: the route without any cache. As in spec/performance.md §5.3 the constant
makes the question's digest as well, which every result names, whether or not anything is cached.
"""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import msgspec

from graders.ports import JudgeCall, JudgeReply, Ports
from service.app import create_app
from service.edge import Edge
from service.logs import configure
from service.settings import Settings
from tests.bench import traffic
from tests.bench.judge_calls import Figures
from tests.bench.load import Request, interleaved
from tests.bench.rows import Row, at_least, at_most, figure, ratios
from tests.bench.servers import ROOT, all_cores, cores, uvicorn
from tests.bench.upstreams import ANSWER, running
from tests.stores.server import RedisServer

_CONNECTIONS = (32, 256)
_REDIS_BARS = {32: 0.45, 256: 0.60}
_QUESTIONS = 256
_encode = msgspec.json.Encoder(order="deterministic").encode


def run(rounds: int) -> list[Row]:
    """Measure everything."""
    return [*_hits(rounds), *_calls(rounds), *_shared(rounds), *_slow()]


class Constant:
    """A judge that says the same to everything."""

    async def judge(self, call: JudgeCall) -> JudgeReply:
        """Return the reply that the scripted upstream gives."""
        return JudgeReply(content=ANSWER, model=call.model, key=sha256(_encode(call)).hexdigest())


def constant() -> Edge:
    """Return the service with `Constant` in place of its judges, for uvicorn."""
    settings = Settings.from_environment()
    configure(settings.log_level)
    return create_app(settings, ports=Ports(judge=Constant()))


def _hits(rounds: int) -> list[Row]:
    """Compare hits in Redis and in the process with a judge that costs nothing."""
    request = _request()
    found: list[Row] = []
    with (
        running() as upstream,
        RedisServer() as redis,
        _routes(upstream) as routes,
        traffic.settings() as plain,
        uvicorn("tests.bench.judge:constant", plain) as floor,
        traffic.service(JUDGE_ROUTES_FILE=routes) as near,
        traffic.service(
            JUDGE_ROUTES_FILE=routes, JUDGE_NEAR_ENTRIES="0", REDIS_URL=redis.url
        ) as far,
    ):
        for connections in _CONNECTIONS:
            targets = ((floor, request), (near, request), (far, request))
            constant_us, near_us, far_us = interleaved(
                targets, rounds=rounds, connections=connections
            )
            at = f"{connections} connections"
            hit = f"judge cache hit in the process, {at}: constant judge / own"
            found += [
                at_least(0.95, hit, ratios(constant_us, near_us)),
                at_least(
                    _REDIS_BARS[connections],
                    f"judge cache hit in Redis, {at}: constant judge / own",
                    ratios(constant_us, far_us),
                ),
                figure(f"constant judge, {at}", constant_us, "µs CPU"),
            ]
    return found


def _calls(rounds: int) -> list[Row]:
    """Compare calls a second with those of the official client."""
    found = _measured("calls", rounds, {cores()[0]})
    plain = found["create rate"]
    against = "official client's plain create, 32 in flight"
    return [
        at_least(2.5, f"upstream calls: our post / {against}", ratios(found["post rate"], plain)),
        figure(f"upstream calls: whole adapter / {against}", ratios(found["judge rate"], plain)),
        *(
            figure(f"upstream call: {name}", found[f"{name} cost"], "µs CPU")
            for name in ("create", "post", "judge")
        ),
    ]


def _shared(rounds: int) -> list[Row]:
    """Measure what replicas have in common through Redis."""
    look_ups = _measured("look-ups", rounds, {cores()[0]})
    same = _measured("identical", rounds, all_cores())
    return [
        at_most(3, "store: batch look-up of 100, a key", look_ups["batch"], "µs CPU"),
        figure("store: look-ups that travel together, a key", look_ups["single"], "µs CPU"),
        at_most(1, "200 identical grades, 2 processes: upstream calls", same["calls"]),
        at_most(30, "200 identical grades, 2 processes: Redis commands", same["commands"]),
        at_most(30, "200 identical grades: above the upstream's time", same["above_ms"], "ms"),
    ]


def _slow() -> list[Row]:
    found = _measured("slow", 1, all_cores())
    return [
        at_most(500, "1,000 judge calls of 5 s: peak memory", found["peak_mb"], "MB"),
        at_most(50, "1,000 judge calls of 5 s: /healthz, p99", found["p99_ms"], "ms"),
        figure("1,000 judge calls of 5 s: /healthz, worst", found["worst_ms"], "ms"),
        figure("1,000 judge calls of 5 s: at once", found["at_once"]),
    ]


def _measured(what: str, rounds: int, allowed: set[int]) -> Figures:
    """Return what `tests.bench.judge_calls` measures on the cores ``allowed``."""
    command = [sys.executable, "-m", "tests.bench.judge_calls", what, str(rounds)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        os.sched_setaffinity(process.pid, allowed)
        output, _ = process.communicate()
    if process.returncode:
        raise RuntimeError(f"{command} failed")
    return msgspec.json.decode(output, type=Figures)


@contextlib.contextmanager
def _routes(url: str) -> Iterator[str]:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "routes.json")
        path.write_bytes(msgspec.json.encode({"routes": [{"name": "bench", "base_url": url}]}))
        yield str(path)


def _request() -> Request:
    """Return questions of about 1.5 kB, one for each connection."""
    rng = random.Random(7)
    bodies = [
        msgspec.json.encode({"item": {"number": number}, "model_sample": traffic.text(rng, 200)})
        for number in range(_QUESTIONS)
    ]
    path = "/v1/graders/judged/versions/1/score"
    return Request(path=path, body=bodies[0], others=bodies[1:], headers=traffic.HEADERS)
