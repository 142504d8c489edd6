"""One sample a request, by a named definition, with everything on that production has on."""

from __future__ import annotations

from tests.bench import traffic
from tests.bench.load import interleaved
from tests.bench.rows import Row, at_least, figure, ratios
from tests.bench.servers import uvicorn


def run(rounds: int) -> list[Row]:
    """Compare single scores with raw ASGI and with FastAPI, at 32 connections."""
    request, floor_request = traffic.single(), traffic.single("/score")
    with (
        traffic.service() as service,
        uvicorn("tests.bench.floors:echo") as echo_floor,
        uvicorn("tests.bench.floors:compare") as compare_floor,
        uvicorn("tests.bench.floors:fastapi") as fastapi_floor,
    ):
        own, echo, compare, fastapi = interleaved(
            (
                (service, request),
                (echo_floor, floor_request),
                (compare_floor, floor_request),
                (fastapi_floor, floor_request),
            ),
            rounds=rounds,
            connections=32,
        )
    return [
        at_least(0.48, "single score: raw ASGI echo / own", ratios(echo, own)),
        figure("single score: raw ASGI, same comparison / own", ratios(compare, own)),
        at_least(1.8, "single score: FastAPI, same comparison / own", ratios(fastapi, own)),
        figure("single score: own", own, "µs CPU"),
        figure("single score: raw ASGI echo", echo, "µs CPU"),
    ]
