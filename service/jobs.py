"""Work that outlives its request: submitted once, asked after until it is done.

What is known of a job stands in a store, under the job's name: while it runs, the lease of the
process that runs it; afterwards its result, for a while. In a shared store every process can be
asked, and the lease of one that dies runs out. A store of one process knows its own jobs only, so
names say which process gave them: asked after somebody else's job, it says so.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
from collections.abc import Awaitable, Callable
from functools import partial
from time import monotonic
from typing import ClassVar, Final, assert_never

import msgspec

from graders.errors import OverloadedError, UpstreamError
from service.stores import Leases, Store

logger = logging.getLogger(__name__)

_PROCESS_BYTES: Final = 6
_NAME: Final = re.compile(r"(?P<process>[\w-]{8})\.[\w-]{22}", re.ASCII)
_LOOK_S: Final = 1.0  # lease of a poll that finds nothing; let go of at once
_AWAY: Final = "the store of submitted requests does not answer"


class JobsUnavailableError(UpstreamError):
    """Nothing can be said of a job now; nothing is lost by asking again."""

    code: ClassVar[str] = "jobs_unavailable"


class Endings(msgspec.Struct, frozen=True, kw_only=True):
    """What is answered where the work itself gives nothing.

    Attributes:
        running: While it runs.
        timed_out: When its time is over.
        broken: When it raised, which is a fault of ours.
    """

    running: bytes
    timed_out: bytes
    broken: bytes


Work = Callable[[], Awaitable[bytes]]


class Jobs:
    """Runs submitted work in the background, a bounded number at once.

    Args:
        store: Where names lead; its bounds and the time to live bound the results.
        shared: Whether other processes see the same store.
        max_running: Jobs at once in this process, those included whose result the store has not
            taken yet.
        ttl_s: Seconds for which a result is kept.
        lease_s: Seconds after which the jobs of a process that died are known to be lost.
    """

    def __init__(
        self,
        store: Store,
        *,
        shared: bool,
        max_running: int,
        ttl_s: float = 900.0,
        lease_s: float = 10.0,
    ) -> None:
        """Start with nothing to do."""
        self._store = store
        self._shared = shared
        self._max_running = max_running
        self._ttl_s = ttl_s
        self._lease_s = lease_s
        self._process = secrets.token_urlsafe(_PROCESS_BYTES)
        self._leases = Leases(store, lease_s=lease_s)
        self._jobs: dict[tuple[str, str], asyncio.Task[None]] = {}  # by key and token of the lease
        self._running = 0

    @property
    def running(self) -> int:
        """Number of jobs under way."""
        return self._running

    async def submit(self, work: Work, endings: Endings, *, timeout_s: float) -> str:
        """Start ``work`` and return the name under which `poll` finds what it gives.

        Raises:
            OverloadedError: Too many are running; ``work`` was not started.
            JobsUnavailableError: The store does not answer; ``work`` was not started.
        """
        if self._running >= self._max_running:
            raise OverloadedError(f"{self._max_running} submitted requests are being graded")
        name = f"{self._process}.{secrets.token_urlsafe(16)}"
        key, token = _key(name), secrets.token_urlsafe(16)
        self._running += 1
        granted = False
        try:
            granted = await self._granted(key, token)
        finally:
            self._running -= not granted
        if not granted:
            raise JobsUnavailableError(_AWAY)
        self._leases.keep(key, token)
        task = asyncio.ensure_future(self._run(key, token, work, endings, timeout_s))
        self._jobs[key, token] = task
        task.add_done_callback(partial(self._ended, key, token))
        return name

    async def poll(self, name: str, endings: Endings) -> bytes | None:
        """Return what is known under ``name``; None when there is no such job any more.

        Raises:
            JobsUnavailableError: The store does not answer, or another process would know.
        """
        parts = _NAME.fullmatch(name)
        if parts is None:
            return None
        if not self._shared and parts["process"] != self._process:
            raise JobsUnavailableError(
                "another process took this request, or this one was started again since; without "
                "GRADEKEEPER_REDIS_URL only the process that took a request knows its result"
            )
        key, token = _key(name), secrets.token_urlsafe(16)
        claim = await self._store.claim(key, token, lease_s=_LOOK_S)
        match claim.state:
            case "found":
                return claim.value
            case "held":
                return endings.running
            case "granted":  # nobody works on it, and there is no result
                await self._store.release(key, token)
                return None
            case "away":
                raise JobsUnavailableError(_AWAY)
            case _:
                assert_never(claim.state)

    async def close(self) -> None:
        """Stop everything that runs; whoever asks after it learns that it is no more."""
        stopped = dict(self._jobs)
        for task in stopped.values():
            task.cancel()
        await asyncio.gather(*stopped.values(), return_exceptions=True)
        await self._leases.close()
        await asyncio.gather(*(self._store.release(key, token) for key, token in stopped))

    async def _granted(self, key: str, token: str) -> bool:
        claim = await self._store.claim(key, token, lease_s=self._lease_s)
        return claim.state == "granted"

    async def _run(
        self, key: str, token: str, work: Work, endings: Endings, timeout_s: float
    ) -> None:
        """Store what ``work`` gives; a store that is away or full is asked until it takes it."""
        result = await _outcome(work, endings, timeout_s)
        end = monotonic() + self._ttl_s
        while monotonic() < end:
            await self._store.finish(key, token, result, ttl_s=self._ttl_s)
            if (await self._store.get_many([key]))[0] is not None:
                return
            await asyncio.sleep(self._lease_s / 10)
        logger.error("the result of a submitted request could not be stored")

    def _ended(self, key: str, token: str, _: asyncio.Task[None]) -> None:
        self._running -= 1
        del self._jobs[key, token]
        self._leases.drop(key)


async def _outcome(work: Work, endings: Endings, timeout_s: float) -> bytes:
    try:
        async with asyncio.timeout(timeout_s):
            return await work()
    except TimeoutError:
        return endings.timed_out
    except Exception:  # the outermost handler of this task
        logger.exception("submitted request failed")
        return endings.broken


def _key(name: str) -> str:
    return f"job:{name}"
