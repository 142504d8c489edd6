"""Work that outlives its request: submitted once, asked after until it is done.

The results are bytes in a store with two operations, which memory has here and a shared store may
have; with the one in memory a poll must reach the process that took the submission.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import msgspec

from graders.errors import OverloadedError

logger = logging.getLogger(__name__)


class ResultStore(Protocol):
    """Keeps bytes for a while; a subset of what stores for the judge cache do."""

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return the value of every key, None where there is none (any more)."""
        ...

    async def put(self, key: str, value: bytes, *, ttl_s: float) -> None:
        """Keep ``value`` for ``ttl_s`` seconds."""
        ...


class MemoryResults:
    """A `ResultStore` in this process, bounded: the oldest entry goes first."""

    def __init__(self, clock: Callable[[], float], *, entries: int) -> None:
        """Keep at most ``entries`` values; ``clock`` gives seconds."""
        self._clock = clock
        self._entries = entries
        self._kept: OrderedDict[str, tuple[float, bytes]] = OrderedDict()

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return the value of every key, None where there is none (any more)."""
        now = self._clock()
        found = (self._kept.get(key) for key in keys)
        return [entry[1] if entry and entry[0] > now else None for entry in found]

    async def put(self, key: str, value: bytes, *, ttl_s: float) -> None:
        """Keep ``value`` for ``ttl_s`` seconds, or until newer ones need the room."""
        now = self._clock()
        self._kept.pop(key, None)
        self._kept[key] = (now + ttl_s, value)
        while self._kept:
            ends, _ = next(iter(self._kept.values()))
            if ends > now and len(self._kept) <= self._entries:
                break
            self._kept.popitem(last=False)


class Endings(msgspec.Struct, frozen=True, kw_only=True):
    """What is stored where the work itself gives nothing.

    Attributes:
        running: While it runs.
        timed_out: When its time is over.
        broken: When it raised, which is a fault of ours.
    """

    running: bytes
    timed_out: bytes
    broken: bytes


class Jobs:
    """Runs submitted work in the background, a bounded number at once."""

    def __init__(self, store: ResultStore, *, max_running: int, ttl_s: float = 900.0) -> None:
        """Keep results in ``store`` for ``ttl_s`` seconds."""
        self._store = store
        self._max_running = max_running
        self._ttl_s = ttl_s
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def running(self) -> int:
        """Number of pieces of work under way."""
        return len(self._tasks)

    async def submit(
        self, work: Callable[[], Awaitable[bytes]], endings: Endings, *, timeout_s: float
    ) -> str:
        """Start ``work`` and return the name under which `poll` finds what it gives.

        Raises:
            OverloadedError: Too many are running; ``work`` was not started.
        """
        if len(self._tasks) >= self._max_running:
            raise OverloadedError(f"{self._max_running} submitted requests are being graded")
        name = secrets.token_urlsafe(16)
        await self._store.put(name, endings.running, ttl_s=self._ttl_s)
        task = asyncio.ensure_future(self._run(name, work, endings, timeout_s))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return name

    async def poll(self, name: str) -> bytes | None:
        """Return what is known under ``name``; None when nothing is."""
        (value,) = await self._store.get_many([name])
        return value

    async def close(self) -> None:
        """Stop everything that runs."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _run(
        self, name: str, work: Callable[[], Awaitable[bytes]], endings: Endings, timeout_s: float
    ) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                result = await work()
        except TimeoutError:
            result = endings.timed_out
        except Exception:  # the outermost handler of this task
            logger.exception("submitted request failed")
            result = endings.broken
        await self._store.put(name, result, ttl_s=self._ttl_s)
