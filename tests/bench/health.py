"""``/healthz`` from a second connection while a big batch of ROUGE-L is scored."""

from __future__ import annotations

import http.client
import random
import threading
import time

import msgspec

from tests.bench import traffic
from tests.bench.rows import Row, at_most, figure
from tests.bench.servers import Server

_ROWS = 10_000
_WORDS = 500
_PAUSE_S = 0.01


def run(rounds: int) -> list[Row]:
    """Return the 99th percentile and the worst of each round."""
    body = _body()
    p99_ms: list[float] = []
    worst_ms: list[float] = []
    with traffic.service() as server:
        for _ in range(rounds):
            waits = _waits_ms(server, body)
            p99_ms.append(waits[int(len(waits) * 0.99)])
            worst_ms.append(waits[-1])
    return [
        at_most(50, "/healthz during 10,000 rows of ROUGE-L: 99th percentile", p99_ms, "ms"),
        figure("/healthz during 10,000 rows of ROUGE-L: worst", worst_ms, "ms"),
    ]


def _body() -> bytes:
    """Return a batch of distinct texts a little under the limit of 64 MiB."""
    rng = random.Random(5)
    pool = [traffic.text(rng, _WORDS)[:3000] for _ in range(200)]
    rows = [
        {"item": {"reference": pool[n % 200]}, "model_sample": pool[(n * 7 + n // 200 + 1) % 200]}
        for n in range(_ROWS)
    ]
    return msgspec.json.encode({"rows": rows})


def _waits_ms(server: Server, body: bytes) -> list[float]:
    """Return how long each health check took while the batch was under way, sorted."""
    headers = {**traffic.HEADERS, "Content-Type": "application/json"}
    batch = threading.Thread(
        target=server.answer, args=("POST", traffic.ROUGE_BATCH, body, headers)
    )
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    waits: list[float] = []
    batch.start()
    while batch.is_alive():
        asked = time.perf_counter()
        connection.request("GET", "/healthz")
        connection.getresponse().read()
        waits.append((time.perf_counter() - asked) * 1000)
        time.sleep(_PAUSE_S)
    batch.join()
    connection.close()
    return sorted(waits)
