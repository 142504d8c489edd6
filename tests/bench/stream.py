"""A hundred thousand samples as NDJSON, streamed in and out, against the same as one JSON array."""

from __future__ import annotations

import socket
import threading

from tests.bench import traffic
from tests.bench.load import Request, encoded
from tests.bench.rows import Row, at_most, figure, ratios
from tests.bench.servers import Server

_ROWS = 100_000
_CHUNK_BYTES = 256 * 1024


def run(rounds: int) -> list[Row]:
    """Measure CPU time and the most memory of both ways, each from a warm server."""
    ways = {"ndjson": traffic.lines(rows=_ROWS), "array": traffic.batch(rows=_ROWS)}
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    growth: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, request in ways.items():
            with traffic.service(MAX_BATCH_ROWS=str(_ROWS)) as server:
                _exchange(server, traffic.lines(rows=1000))
                _exchange(server, traffic.batch(rows=1000))
                idle_mib, idle_s = server.rss_mib(), server.cpu_s()
                server.forget_peak()
                _exchange(server, request)
                growth[way].append(server.peak_rss_mib() - idle_mib)
                seconds[way].append(server.cpu_s() - idle_s)
    return [
        at_most(20, "NDJSON of 100,000: peak memory above idle", growth["ndjson"], "MiB"),
        at_most(
            1,
            "NDJSON of 100,000: CPU time / JSON array's",
            ratios(seconds["ndjson"], seconds["array"]),
        ),
        figure("NDJSON of 100,000: CPU time", seconds["ndjson"], "s"),
        figure("JSON array of 100,000: peak memory above idle", growth["array"], "MiB"),
    ]


def _exchange(server: Server, request: Request) -> None:
    """Send ``request`` and read the answer at the same time, to its end.

    Raises:
        RuntimeError: The status is not 200.
    """
    message = encoded(request)
    with socket.create_connection(("127.0.0.1", server.port), timeout=120) as connection:
        sender = threading.Thread(target=connection.sendall, args=(message,))
        sender.start()
        answer = tail = connection.recv(_CHUNK_BYTES)
        # A stream ends with an empty chunk, an array with the object of its summary.
        while tail and not tail.endswith((b"\r\n0\r\n\r\n", b"}}")):
            data = connection.recv(_CHUNK_BYTES)
            tail = tail[-16:] + data if data else b""
        sender.join()
    if not answer.startswith(b"HTTP/1.1 200 "):
        raise RuntimeError(f"unexpected answer: {answer[:500]!r}")
