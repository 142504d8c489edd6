"""Everything asked of Redis in one turn of the event loop, in one round trip.

Look-ups of one turn become one MGET (a GET each in a Cluster), the scripts of one turn one
pipeline. No answer is waited for longer than the bound; a Redis that fails several times in a row
is left alone until a probe in the background gets through, so no grade serves as the probe.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from service.stores.connect import Connected
from service.stores.port import StoreStats


class _Away:
    """The answer when Redis gave none."""

    def __repr__(self) -> str:
        return "AWAY"


AWAY: Final = _Away()
MAX_KEYS: Final = 2_000
"""Keys of one MGET: larger batches are split, so that one does not hold Redis up for others."""

_Look = tuple[Sequence[str], "asyncio.Future[list[Any]]"]
_Step = tuple[str, tuple[Any, ...], "asyncio.Future[Any]"]


class Batcher:
    """Collects commands and sends them together.

    Args:
        connected: The client.
        stats: Where operations are counted.
        timeout_s: Longest wait for a round trip, in seconds.
        failures_to_open: Failures in a row after which Redis is left alone.
        probe_s: Seconds between probes.
    """

    def __init__(
        self,
        connected: Connected,
        stats: StoreStats,
        *,
        timeout_s: float,
        failures_to_open: int,
        probe_s: float,
    ) -> None:
        """Start with nothing to send."""
        self._client: Any = connected.client
        self._cluster = connected.cluster
        self._stats = stats
        self._timeout_s = timeout_s
        self._failures_to_open = failures_to_open
        self._probe_s = probe_s
        self._failures = 0
        self._looks: list[_Look] = []
        self._steps: list[_Step] = []
        self._scheduled = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._prober: asyncio.Task[None] | None = None
        self._closed = False

    async def look_up(self, keys: Sequence[str]) -> list[Any]:
        """Return an answer a key: bytes, None, or `AWAY`."""
        if not keys:
            return []
        if self._stats.away or self._closed:
            self._stats.operations["get", "skipped"] += 1
            return [AWAY] * len(keys)
        future: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        self._looks.append((keys, future))
        self._schedule()
        return await future

    async def step(self, operation: str, *command: Any) -> Any:  # noqa: ANN401 - what Redis says
        """Return the answer to ``command``, or `AWAY`; ``operation`` names it in the counters."""
        if self._stats.away or self._closed:
            self._stats.operations[operation, "skipped"] += 1
            return AWAY
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._steps.append((operation, command, future))
        self._schedule()
        return await future

    async def ping(self) -> str | None:
        """Return None when Redis answers in time, else the kind of failure."""
        outcome, answer = await self._bounded(self._client.execute_command("PING"))
        if outcome == "ok" and answer not in {True, b"PONG", "PONG"}:
            outcome = "garbage"
        return None if outcome == "ok" else outcome

    async def close(self) -> None:
        """Wait briefly for what is on its way, then stop probing."""
        self._closed = True
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=2 * self._timeout_s)
        if self._prober is not None:
            self._prober.cancel()
            await asyncio.gather(self._prober, return_exceptions=True)

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._scheduled = False
        looks, self._looks = self._looks, []
        steps, self._steps = self._steps, []
        if looks:
            self._start(self._send_looks(looks))
        if steps:
            self._start(self._send_steps(steps))

    def _start(self, work: Any) -> None:  # noqa: ANN401 - a coroutine
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _send_looks(self, looks: list[_Look]) -> None:
        keys = list(dict.fromkeys(key for asked, _ in looks for key in asked))
        chunks = [keys[i : i + MAX_KEYS] for i in range(0, len(keys), MAX_KEYS)]
        answers = await asyncio.gather(*map(self._mget, chunks))
        if len(looks) == 1 and len(looks[0][0]) == len(keys):
            _resolve(looks[0][1], [value for values in answers for value in values])
            return
        found: dict[str, Any] = {}
        for chunk, values in zip(chunks, answers, strict=True):
            found.update(zip(chunk, values, strict=True))
        for asked, future in looks:
            _resolve(future, [found[key] for key in asked])

    async def _mget(self, keys: list[str]) -> list[Any]:
        if self._cluster:
            return await self._pipeline([("get", ("GET", key)) for key in keys])
        self._stats.round_trips += 1
        outcome, answer = await self._bounded(self._client.execute_command("MGET", *keys))
        if outcome == "ok" and not (isinstance(answer, list) and len(answer) == len(keys)):
            outcome = "garbage"
        self._stats.operations["get", outcome] += 1
        return answer if outcome == "ok" else [AWAY] * len(keys)

    async def _send_steps(self, steps: list[_Step]) -> None:
        if len(steps) == 1 and not self._cluster:
            operation, command, future = steps[0]
            self._stats.round_trips += 1
            outcome, answer = await self._bounded(self._client.execute_command(*command))
            self._stats.operations[operation, outcome] += 1
            _resolve(future, answer if outcome == "ok" else AWAY)
            return
        answers = await self._pipeline([(operation, command) for operation, command, _ in steps])
        for (_, _, future), answer in zip(steps, answers, strict=True):
            _resolve(future, answer)

    async def _pipeline(self, commands: list[tuple[str, tuple[Any, ...]]]) -> list[Any]:
        self._stats.round_trips += 1
        outcome, answers = await self._bounded(self._execute([args for _, args in commands]))
        if outcome == "ok" and len(answers) != len(commands):
            outcome = "garbage"
        if outcome != "ok":
            for operation, _ in commands:
                self._stats.operations[operation, outcome] += 1
            return [AWAY] * len(commands)
        result = []
        for (operation, _), answer in zip(commands, answers, strict=True):
            refused = isinstance(answer, Exception)
            self._stats.operations[operation, "refused" if refused else "ok"] += 1
            result.append(AWAY if refused else answer)
        return result

    async def _execute(self, commands: list[tuple[Any, ...]]) -> list[Any]:
        options = {} if self._cluster else {"transaction": False}
        pipe = self._client.pipeline(**options)
        for command in commands:
            pipe.execute_command(*command)
        answers: list[Any] = await pipe.execute(raise_on_error=False)
        return answers

    async def _bounded(self, work: Any) -> tuple[str, Any]:  # noqa: ANN401 - a coroutine
        """Return how ``work`` ended and its answer; late work is cancelled.

        `asyncio.timeout` would give up on an answer that has arrived but not been read yet when
        this process itself was busy for longer than the bound; so the task gets a few more turns.
        """
        task = asyncio.ensure_future(work)
        try:
            await asyncio.wait({task}, timeout=self._timeout_s)
            for _ in range(5):
                if task.done():
                    break
                await asyncio.sleep(0)
        finally:
            if not task.done():
                task.cancel()
                task.add_done_callback(_forget)
        if not task.done():
            self._failed()
            return "timeout", None
        return self._judged(task)

    def _judged(self, task: asyncio.Future[Any]) -> tuple[str, Any]:
        from redis.exceptions import RedisError, ResponseError  # noqa: PLC0415
        from redis.exceptions import TimeoutError as RedisTimeoutError  # noqa: PLC0415

        error = None if task.cancelled() else task.exception()
        if task.cancelled() or isinstance(error, RedisTimeoutError):
            self._failed()
            return "timeout", None
        if isinstance(error, ResponseError):
            # The server answers, it only refuses: OOM, READONLY, LOADING, WRONGTYPE.
            self._failures = 0
            return "refused", None
        if isinstance(error, (RedisError, OSError)):
            self._failed()
            return "connection", None
        if error is not None:
            # Bytes that are not the Redis protocol surface as ValueError and the like.
            self._failed()
            return "garbage", None
        self._failures = 0
        return "ok", task.result()

    def _failed(self) -> None:
        self._failures += 1
        if self._failures >= self._failures_to_open and not self._stats.away and not self._closed:
            self._stats.away = True
            self._stats.opened += 1
            self._prober = asyncio.create_task(self._probe())

    async def _probe(self) -> None:
        while self._stats.away:
            await asyncio.sleep(self._probe_s)
            if await self.ping() is None:
                self._stats.away = False


def _forget(task: asyncio.Future[Any]) -> None:
    """Take note of how late work ended, so that nobody reports it as unnoticed."""
    if not task.cancelled():
        task.exception()


def _resolve(future: asyncio.Future[Any], answer: Any) -> None:  # noqa: ANN401 - what Redis says
    if not future.done():
        future.set_result(answer)
