"""Keeps a cluster busy, checks every answer, and says what became of the calls and when."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Self

import aiohttp
import msgspec

from tests.cluster.workload import KINDS, Call, Kind, Outcome, calls, outcome

LOST_S = 45.0


class Result(msgspec.Struct, frozen=True):
    """One call: times are monotonic seconds."""

    kind: Kind
    rows: int
    begun: float
    ended: float
    outcome: Outcome

    @property
    def seconds(self) -> float:
        """How long the caller waited."""
        return self.ended - self.begun


class Client:
    """Makes calls over kept connections.

    Attributes:
        results: Every call that came to an end, in order of its end.
    """

    def __init__(self, url: str, key: str) -> None:
        """Prepare to ask ``url``."""
        self.results: list[Result] = []
        self._url = url
        self._headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        """Open it."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=LOST_S),
            headers=self._headers,
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close every connection."""
        assert self._session is not None
        await self._session.close()

    async def make(self, call: Call) -> Result:
        """Make ``call`` and keep the result."""
        begun = time.monotonic()
        found = await self._ask(call)
        result = Result(call.kind, len(call.expected), begun, time.monotonic(), found)
        self.results.append(result)
        return result

    async def _ask(self, call: Call) -> Outcome:
        assert self._session is not None
        try:
            async with self._session.post(self._url + call.path, data=call.body) as response:
                body = await response.read()
                headers = {name.lower(): value for name, value in response.headers.items()}
                return outcome(call, response.status, headers, body)
        except TimeoutError:
            return Outcome(verdict="wrong", what=f"no answer in {LOST_S:g} s")
        except aiohttp.ClientConnectionError as error:
            return Outcome(verdict="retryable", what=f"connection: {type(error).__name__}")
        except aiohttp.ClientPayloadError:
            return Outcome(verdict="retryable", what="connection: torn answer")
        except Exception as error:  # noqa: BLE001 - whatever an answer is that nobody can read
            return Outcome(verdict="wrong", what=f"unreadable: {error!r}")


class Stream:
    """Sends calls at a steady rate, whatever becomes of those before (an open loop)."""

    def __init__(self, client: Client, *, per_s: float, seed: int) -> None:
        """Prepare to send ``per_s`` calls a second."""
        self._client = client
        self._pause_s = 1 / per_s
        self._calls = calls(seed)
        self._under_way: set[asyncio.Task[Result]] = set()
        self._sending: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Begin."""
        self._sending = asyncio.create_task(self._send())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Send no more, and wait for every answer."""
        assert self._sending is not None
        self._sending.cancel()
        await asyncio.gather(self._sending, *self._under_way, return_exceptions=True)

    @property
    def waiting(self) -> int:
        """Calls without an answer."""
        return len(self._under_way)

    async def _send(self) -> None:
        due = time.monotonic()
        for call in self._calls:
            task = asyncio.create_task(self._client.make(call))
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)
            due += self._pause_s
            await asyncio.sleep(max(0.0, due - time.monotonic()))


async def closed_loop(client: Client, *, connections: int, seconds: float, seed: int) -> None:
    """Keep ``connections`` calls under way for ``seconds``, and wait for the last answers."""
    shared = calls(seed)
    end = time.monotonic() + seconds

    async def one() -> None:
        while time.monotonic() < end:
            await client.make(next(shared))

    await asyncio.gather(*(one() for _ in range(connections)))


def tally(results: Iterable[Result]) -> Counter[str]:
    """Return how often what happened; the right ones as ``right``."""
    return Counter(
        f"{result.kind} {result.outcome.what}" if result.outcome.what else "right"
        for result in results
    )


def wrong(results: Iterable[Result]) -> list[str]:
    """Return what was neither right nor an invitation to try again."""
    return [result.outcome.what for result in results if result.outcome.verdict == "wrong"]


def by_kind(results: Iterable[Result]) -> Iterator[tuple[Kind, list[Result]]]:
    """Yield the results of each kind."""
    found = list(results)
    for kind in KINDS:
        yield kind, [result for result in found if result.kind == kind]


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value that ``share`` of ``values`` does not exceed; NaN without any."""
    if not values:
        return math.nan
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]
