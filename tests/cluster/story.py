"""A fault in the middle of a steady load: what it cost, and how long recovery took."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec

from tests.cluster.load import Client, Result, Stream, by_kind, tally, wrong
from tests.cluster.processes import KEY, Cluster
from tests.cluster.workload import KINDS

# Seconds that a fault lasts; `make faults` holds it for longer.
HOLD_S = float(os.environ.get("FAULT_HOLD_S", "1"))
RECOVERY_S = 10.0
_PER_S = 60.0
_BEFORE_S = 1.0
_WELL_FOR_S = 1.0
_SLOW_S = 3.0


class Report(msgspec.Struct, kw_only=True):
    """What a scenario showed.

    Attributes:
        calls: Every call by what became of it.
        recovery_s: From the end of the fault until calls were right and quick again.
    """

    name: str
    calls: dict[str, int] = {}
    recovery_s: float = 0.0

    def line(self) -> str:
        """Return it for people."""
        what = "; ".join(f"{number} {text}" for text, number in sorted(self.calls.items()))
        return f"{self.name}: recovery {self.recovery_s:.2f} s ({what})"


class Story:
    """One scenario under load.

    Attributes:
        client: Has the results.
    """

    def __init__(self, client: Client) -> None:
        """Begin with the fault not yet there."""
        self.client = client
        self._fault: float | None = None
        self._healed: float | None = None

    def broken(self) -> None:
        """Note that the fault begins now."""
        self._fault = time.monotonic()

    def healed(self) -> None:
        """Note that the fault is over now, so that recovery is counted from here."""
        self._healed = time.monotonic()

    def during(self) -> list[Result]:
        """Return the calls that were under way during the fault."""
        assert self._fault is not None
        end = self._healed or time.monotonic()
        return [r for r in self.client.results if r.ended >= self._fault and r.begun <= end]

    async def well_again(self) -> float:
        """Wait until calls of every kind are right and quick; return how long that took.

        Raises:
            AssertionError: It takes longer than `RECOVERY_S`.
        """
        assert self._healed is not None
        while True:
            now = time.monotonic()
            bad = [r.begun for r in self.client.results if r.begun >= self._healed and _is_bad(r)]
            well_since = max([self._healed, *bad])
            recent = [r for r in self.client.results if r.begun > well_since]
            if now - well_since > _WELL_FOR_S and {r.kind for r in recent} == set(KINDS):
                return well_since - self._healed
            assert now - self._healed < RECOVERY_S + _WELL_FOR_S, tally(
                r for r in self.client.results if r.begun >= self._healed
            )
            await asyncio.sleep(0.05)


def _is_bad(result: Result) -> bool:
    return result.outcome.verdict != "right" or result.seconds > _SLOW_S


@contextlib.asynccontextmanager
async def story(cluster: Cluster, report: Report, *, url: str = "") -> AsyncIterator[Story]:
    """Load ``cluster`` while the body breaks and heals it; the body says when with the `Story`.

    Before the fault every answer must be right; at the end nothing may be wrong or lost, and the
    service must be well within `RECOVERY_S`.
    """
    async with Client(url or cluster.url, KEY) as client:
        found = Story(client)
        async with Stream(client, per_s=_PER_S, seed=time.monotonic_ns()):
            await asyncio.sleep(_BEFORE_S)
            assert set(tally(client.results)) == {"right"}, tally(client.results)
            yield found
            report.recovery_s = await found.well_again()
        report.calls = dict(tally(client.results))
        assert wrong(client.results) == []
        for kind, results in by_kind(client.results):
            assert results, f"no {kind} call was made"


async def eventually(holds: Callable[[], bool], timeout_s: float = RECOVERY_S) -> None:
    """Return once ``holds()``, which may block; fail after ``timeout_s``."""
    async with asyncio.timeout(timeout_s):
        while not await asyncio.to_thread(holds):  # noqa: ASYNC110 - it belongs to other processes
            await asyncio.sleep(0.05)


def blocking(function: Callable[..., Any], *arguments: Any) -> Awaitable[Any]:
    """Run what waits for processes beside the load."""
    return asyncio.to_thread(function, *arguments)
