"""The way to one upstream: slots, tokens per minute, circuit breaker, and retries with jitter.

A slot is held during one attempt, not during the pause before the next. ``Retry-After`` is a lower
bound of that pause, never its end: pauses grow as without it. When it leads past the call's
deadline the call fails at once and hands the number on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from random import Random
from time import monotonic
from typing import Final, TypeVar

import msgspec

from service.judge.breaker import Breaker
from service.judge.chat import EnvelopeError
from service.judge.client import CallFailedError
from service.judge.limits import Bucket, QueueFullError, Slots
from service.judge.routes import Route
from service.judge.stats import JudgeStats, Latency, RouteState

ResultT = TypeVar("ResultT")
_RATE_LIMITED: Final = "http_429"


class RetryPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """When to try again, and when to leave an upstream alone.

    Attributes:
        attempts: Most attempts of one call.
        first_pause_s: Longest pause before the second attempt; it doubles with each attempt.
        longest_pause_s: Longest pause without a ``Retry-After``.
        breaker_failures: Failures in a row, over all calls, that open the breaker.
        breaker_span_s: Seconds that such a row must last.
        breaker_pause_s: Seconds it stays open at first.
        breaker_longest_s: Longest it stays open.
    """

    attempts: int = 6
    first_pause_s: float = 0.5
    longest_pause_s: float = 8.0
    breaker_failures: int = 12
    breaker_span_s: float = 1.0
    breaker_pause_s: float = 1.0
    breaker_longest_s: float = 30.0


class Lane:
    """Calls to one route.

    Args:
        route: Its limits.
        policy: Retries and breaker.
        stats: Where attempts are counted.
        share: Number of processes that share the route's limits.
        clock: Monotonic seconds.
        random: Source of jitter.

    Raises:
        ValueError: A limit is too small to give each process a part.
    """

    def __init__(  # noqa: PLR0913 - collaborators are parameters
        self,
        route: Route,
        policy: RetryPolicy,
        stats: JudgeStats,
        *,
        share: int = 1,
        clock: Callable[[], float] = monotonic,
        random: Random | None = None,
    ) -> None:
        """Start with free slots and full buckets."""
        for limit in ("concurrency", "requests_per_minute"):
            most: int | None = getattr(route, limit)
            if most is not None and most < share:
                raise ValueError(
                    f"route {route.name!r}: {limit} {most} cannot be divided among {share} "
                    "processes (workers times replicas)"
                )
        self._route = route
        self._policy = policy
        self._stats = stats
        self._clock = clock
        self._random = random or Random()  # noqa: S311 - jitter
        self._slots = Slots(route.concurrency // share, route.queue, clock=clock)
        self._breaker = Breaker(
            failures=policy.breaker_failures,
            span_s=policy.breaker_span_s,
            pause_s=policy.breaker_pause_s,
            longest_s=policy.breaker_longest_s,
            clock=clock,
        )
        self._trouble = ""  # what the last failure that the breaker counts was
        self._requests = _bucket(route.requests_per_minute, share, clock)
        self._tokens = _bucket(route.tokens_per_minute, share, clock)

    @property
    def state(self) -> RouteState:
        """How the route is doing."""
        return RouteState(
            route=self._route.name,
            in_flight=self._slots.active,
            queued=self._slots.queued,
            limit=self._slots.limit,
            circuit=self._breaker.state,
        )

    async def call(
        self, send: Callable[[], Awaitable[ResultT]], *, tokens: int, ends_at: float
    ) -> tuple[ResultT, int]:
        """Return what ``send`` returns and the number of attempts it took.

        Args:
            send: One attempt.
            tokens: Tokens the call will probably take.
            ends_at: Deadline, on the lane's clock.

        Raises:
            CallFailedError: The last failure, once no attempt is left.
        """
        attempt = 1
        while True:
            try:
                return await self._attempt(send, tokens, ends_at), attempt
            except CallFailedError as error:
                error.attempts = attempt
                pause = self._pause(attempt, error.retry_after_s)
                late = self._clock() + pause >= ends_at
                if not error.again or attempt >= self._policy.attempts or late:
                    raise
            self._stats.retries[self._route.name] += 1
            await asyncio.sleep(pause)
            attempt += 1

    def learned(self, *, expected: int, used: int) -> None:
        """Correct the tokens a call was thought to take by those it took."""
        if self._tokens is not None:
            self._tokens.give_back(expected - used)

    async def _attempt(
        self, send: Callable[[], Awaitable[ResultT]], tokens: int, ends_at: float
    ) -> ResultT:
        came = self._clock()
        if self._breaker.down and self._breaker.state == "open":
            raise self._left_alone(self._breaker.wait_s())
        await self._enter(ends_at)
        try:
            await self._flow(tokens, ends_at)
            await self._pass_breaker(ends_at)
            waited = self._stats.waits.setdefault(self._route.name, Latency())
            waited.observe(self._clock() - came)
            return await self._send(send, ends_at)
        finally:
            self._slots.release()

    async def _enter(self, ends_at: float) -> None:
        if self._slots.acquire_now():
            return
        try:
            async with asyncio.timeout(max(0.0, ends_at - self._clock())):
                await self._slots.acquire()
        except QueueFullError as error:
            raise CallFailedError(
                "queue_full", "the queue of calls is full", again=False
            ) from error
        except TimeoutError as error:
            raise CallFailedError(
                "deadline", "no slot became free before the deadline", again=False
            ) from error

    async def _flow(self, tokens: int, ends_at: float) -> None:
        """Wait until the minute's amounts allow one more call of this size."""
        for bucket, amount in ((self._requests, 1), (self._tokens, tokens)):
            if bucket is None:
                continue
            wait_s = bucket.take(amount)
            if self._clock() + wait_s >= ends_at:
                bucket.give_back(amount)
                details = "the route's rate limit leaves no room before the deadline"
                raise CallFailedError("rate_limit", details, again=False, retry_after_s=wait_s)
            if wait_s > 0:
                await asyncio.sleep(wait_s)

    async def _pass_breaker(self, ends_at: float) -> None:
        """Wait out a first pause; fail at once when the upstream is down."""
        while (wait_s := self._breaker.wait_s()) > 0:
            if self._breaker.down or self._clock() + wait_s >= ends_at:
                raise self._left_alone(wait_s)
            await asyncio.sleep(wait_s)

    async def _send(self, send: Callable[[], Awaitable[ResultT]], ends_at: float) -> ResultT:
        began = self._clock()
        left = max(0.0, ends_at - began)
        try:
            async with asyncio.timeout(min(left, self._route.timeout_s)):
                result = await send()
        except TimeoutError as error:
            failure = CallFailedError(
                "timeout", "no answer in time", again=left > self._route.timeout_s, unwell=True
            )
            self._note(failure)
            raise failure from error
        except EnvelopeError as error:
            failure = CallFailedError("bad_reply", str(error), again=True, unwell=True)
            self._note(failure)
            raise failure from error
        except CallFailedError as failure:
            self._note(failure)
            raise
        except BaseException:
            self._breaker.undecided()
            raise
        name = self._route.name
        self._stats.attempts[name, "ok"] += 1
        self._stats.latency.setdefault(name, Latency()).observe(self._clock() - began)
        self._breaker.succeeded()
        self._slots.recover()
        for bucket in (self._requests, self._tokens):
            if bucket is not None:
                bucket.recover()
        return result

    def _note(self, failure: CallFailedError) -> None:
        self._stats.attempts[self._route.name, failure.kind] += 1
        if failure.unwell:
            self._trouble = failure.details
            self._breaker.failed()
        else:
            self._breaker.undecided()
        if failure.kind == _RATE_LIMITED:
            self._slots.slow_down()
            for bucket in (self._requests, self._tokens):
                if bucket is not None:
                    bucket.slow_down()

    def _pause(self, attempt: int, retry_after_s: float | None) -> float:
        top = min(
            self._policy.longest_pause_s, self._policy.first_pause_s * float(2 ** (attempt - 1))
        )
        if retry_after_s is None:
            return self._random.uniform(0, top)
        # Those who were told the same second must not all come back in it; who was told none, or
        # the same again and again, waits as long as who was told nothing.
        return max(retry_after_s, top / 2) + self._random.uniform(0, top / 2)

    def _left_alone(self, wait_s: float) -> CallFailedError:
        details = f"the upstream kept failing and is left alone for now; last: {self._trouble}"
        return CallFailedError("circuit_open", details, again=False, retry_after_s=wait_s)


def _bucket(per_minute: int | None, share: int, clock: Callable[[], float]) -> Bucket | None:
    return None if per_minute is None else Bucket(per_minute / share, clock=clock)
