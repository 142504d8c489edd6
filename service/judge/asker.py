"""Asking an upstream on somebody's account: money set aside, the call, the bill.

Whatever the upstream does comes back as an outcome; only cancellation passes through.
"""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random
from time import monotonic, time
from typing import Final

from graders.grade import TokenUsage
from service.judge.budget import Budgets, Standing
from service.judge.chat import EnvelopeError
from service.judge.client import TOO_LARGE, CallFailedError, ListedModel, Upstreams
from service.judge.config import JudgeConfig
from service.judge.context import JudgeContext
from service.judge.lane import Lane
from service.judge.outcome import Answer, Failed, FailureCode, Landed, Outcome, Vectors
from service.judge.question import Question
from service.judge.routes import Route, Routes, Target
from service.judge.stats import JudgeStats, RouteState
from service.logs import event
from service.stores import Reservation, Store

logger = logging.getLogger(__name__)

_CODES: Final[dict[str, FailureCode]] = {"queue_full": "overloaded"}


class Asker:
    """The upstreams, with a lane to each and the budgets over all.

    Args:
        config: Retries, deadline, budgets.
        routes: The upstreams.
        store: Where money is counted.
        stats: Where everything is counted.
        clock: Monotonic seconds.
        wall: Seconds since the epoch.
        random: Source of jitter.
    """

    def __init__(  # noqa: PLR0913 - collaborators are parameters
        self,
        config: JudgeConfig,
        routes: Routes,
        store: Store,
        stats: JudgeStats,
        *,
        clock: Callable[[], float] = monotonic,
        wall: Callable[[], float] = time,
        random: Random | None = None,
    ) -> None:
        """Prepare a lane to each route; nothing connects before the first call."""
        self._deadline_s = config.deadline_s
        self._routes = routes
        self._stats = stats
        self._clock = clock
        self._budgets = Budgets(config.budget, store, stats, wall=wall)
        self._upstreams = Upstreams(wall=wall)
        self._lanes = {
            route.name: Lane(
                route, config.retry, stats, share=config.share, clock=clock, random=random
            )
            for route in routes.routes
        }
        self._settling: set[asyncio.Task[None]] = set()

    @property
    def states(self) -> tuple[RouteState, ...]:
        """How every route is doing now."""
        return tuple(lane.state for lane in self._lanes.values())

    async def ask(self, question: Question, context: JudgeContext) -> Landed:
        """Return what the upstream says, paid for by ``context``."""
        route = question.target.route
        cost = 0 if route.price is None else route.price.nanodollars(question.expected)
        reserved = await self._budgets.reserve(context, cost, hold_s=self._deadline_s)
        if isinstance(reserved, Failed):
            return Landed(outcome=reserved, part="leader")
        bill = _Bill(cost)
        try:
            landed = await self._send(question, bill)
        finally:
            if reserved is not None:
                self._settle(reserved, bill.presumed + bill.stated)
        outcome = landed.outcome
        if not isinstance(outcome, Failed):
            account = context.api_key, context.grader
            self._stats.paid(account, outcome.model, outcome.usage, bill.stated)
            self._stats.unpriced[route.name] += route.price is None
        return landed

    async def budgets_today(self) -> list[Standing]:
        """Return how every budget that was asked for stands."""
        return await self._budgets.today()

    async def models(self) -> dict[str, list[ListedModel] | str]:
        """Return, by route, the models its upstream lists, or one sentence why it does not."""
        found: dict[str, list[ListedModel] | str] = {}
        for route in self._routes.routes:
            try:
                found[route.name] = await self._upstreams.models(self._any_target(route))
            except CallFailedError as error:
                found[route.name] = error.details
        return found

    async def warm(self) -> None:
        """Import the client library and make all clients."""
        await self._upstreams.warm(map(self._any_target, self._routes.routes))

    async def close(self) -> None:
        """Settle what is open, then close every connection."""
        if self._settling:
            await asyncio.wait(self._settling, timeout=1.0)
        await self._upstreams.close()

    async def _send(self, question: Question, bill: _Bill) -> Landed:
        route = question.target.route
        lane = self._lanes[route.name]
        expected = question.expected.total_tokens
        began = self._clock()
        outcome: Outcome

        async def once() -> Answer | Vectors:
            with bill.watching():
                raw = await self._upstreams.post(question.target, question.path, content)
                return question.read(raw)

        try:
            content = question.content
            await self._upstreams.ready(question.target)
            began = self._clock()
            answer, attempts = await lane.call(
                once, tokens=expected, ends_at=began + self._deadline_s
            )
            bill.state(answer.usage, route)
            lane.learned(expected=expected, used=answer.usage.total_tokens or expected)
            outcome = answer
        except CallFailedError as error:
            if error.kind in {"queue_full", "rate_limit", "circuit_open"}:
                self._stats.refused[error.kind] += 1
            outcome, attempts = _failure(route, error), error.attempts
        except Exception as error:  # noqa: BLE001 - one odd reply must not take a batch with it
            outcome, attempts = _surprise(route, error), 0
        return Landed(
            outcome=outcome,
            part="leader",
            attempts=attempts,
            nanodollars=bill.stated,
            seconds=self._clock() - began,
        )

    def _any_target(self, route: Route) -> Target:
        key = self._routes.api_keys.get(route.name)
        return Target(route=route, api_key=key, model="", asked_model="")

    def _settle(self, reservation: Reservation, spent: int) -> None:
        """Settle without making the answer wait, even when the call was cancelled."""
        task = asyncio.create_task(self._budgets.settle(reservation, spent=spent))
        self._settling.add(task)
        task.add_done_callback(self._settling.discard)


class _Bill:
    """What one call takes out of budgets, in nanodollars.

    Attributes:
        stated: Price of the usage that the reply states.
        presumed: The estimate, for each attempt that went out and brought no usage back because
            time was up, the caller had gone, or the reply cannot be read or states none: upstreams
            bill such work. Error answers and failed connections are free.
    """

    def __init__(self, estimate: int) -> None:
        self._estimate = estimate
        self.stated = 0
        self.presumed = 0

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Presume the estimate if the attempt inside is cut short."""
        try:
            yield
        except (asyncio.CancelledError, EnvelopeError):
            self.presume()
            raise
        except CallFailedError as error:
            if error.kind == TOO_LARGE:
                self.presume()
            raise

    def presume(self) -> None:
        """Count the estimate once."""
        self.presumed += self._estimate

    def state(self, usage: TokenUsage, route: Route) -> None:
        """Count what the reply states."""
        if not usage.total_tokens:
            self.presume()
        elif route.price is not None:
            self.stated = route.price.nanodollars(usage)


def _failure(route: Route, error: CallFailedError) -> Failed:
    tries = f" after {error.attempts} attempts" if error.attempts > 1 else ""
    return Failed(
        code=_CODES.get(error.kind, "unavailable"),
        details=f"judge route {route.name!r}: {error.details}{tries}",
        kind=error.kind,
        retryable=error.retryable,
        retry_after_s=error.retry_after_s,
    )


def _surprise(route: Route, error: Exception) -> Failed:
    """Return the failure for what nobody foresaw, and log where it came from.

    Its own words stay here: they may quote the prompt or the key.
    """
    at = traceback.extract_tb(error.__traceback__)[-1]
    name = type(error).__name__
    told = {"route": route.name, "error": name, "at": f"{at.filename}:{at.lineno}"}
    event(logger, logging.ERROR, "a judge call failed in an unforeseen way", told)
    details = f"judge route {route.name!r}: the call failed in an unforeseen way ({name})"
    return Failed(details=details, kind="unforeseen")
