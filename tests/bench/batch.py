"""A thousand samples a request, as one JSON array."""

from __future__ import annotations

from tests.bench import traffic
from tests.bench.load import interleaved
from tests.bench.rows import Row, at_least, figure, ratios
from tests.bench.servers import uvicorn

_ROWS = 1000


def run(rounds: int) -> list[Row]:
    """Compare batches with decoding and encoding alone, with FastAPI, and with single scores."""
    request, floor_request = traffic.batch(rows=_ROWS), traffic.batch("/score/batch", rows=_ROWS)
    with (
        traffic.service() as service,
        uvicorn("tests.bench.floors:decode_encode") as codec_floor,
        uvicorn("tests.bench.floors:fastapi") as fastapi_floor,
    ):
        servers = ((codec_floor, floor_request), (fastapi_floor, floor_request))
        own, codec, fastapi = interleaved(
            ((service, request), *servers), rounds=rounds, connections=8
        )
        (single,) = interleaved(((service, traffic.single()),), rounds=rounds, connections=32)
    return [
        # Only fields that the templates mention are decoded, so the higher bar holds too.
        at_least(0.75, "batch of 1,000: raw ASGI decode + encode / own", ratios(codec, own)),
        at_least(1.3, "batch of 1,000: the same, as needed fields are decoded", ratios(codec, own)),
        at_least(4, "batch of 1,000: FastAPI / own", ratios(fastapi, own)),
        at_least(
            20,
            "one sample: single / batch",
            [_ROWS * s / b for s, b in zip(single, own, strict=True)],
        ),
        figure("batch of 1,000: own, each sample", [cost / _ROWS for cost in own], "µs CPU"),
    ]
