"""`OpenAIJudge`: the ports `Judge` and `Embedder` over any OpenAI-compatible upstream.

A question goes through the tiers in this order, and no further than it must: this process's
memory, the flight that is already asking it, the store, another replica that is asking it, the
budget, the route's limits, the upstream. What comes back is an answer or a typed failure; nothing
here ever makes up a verdict.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random
from time import monotonic, time
from typing import Any, Final

import msgspec

from graders.errors import EmbedderUnavailableError, JudgeUnavailableError, UpstreamError
from graders.grade import TokenUsage
from graders.ports import EmbeddingCall, EmbeddingReply, JudgeCall, JudgeReply
from service.judge.budget import Budgets
from service.judge.cache import Cache
from service.judge.chat import chat_answer, chat_body, dropped, embeddings_body, vectors
from service.judge.client import CallFailedError, ListedModel, Upstreams
from service.judge.config import JudgeConfig
from service.judge.context import JudgeContext, current_context
from service.judge.estimate import expected_usage, text_tokens
from service.judge.flight import Flights, Landed
from service.judge.key import digest
from service.judge.lane import Lane
from service.judge.outcome import Answer, Failed, FailureCode, JsonObject, Outcome, Vectors
from service.judge.recording import Recording
from service.judge.responses import responses_answer, responses_body
from service.judge.routes import Route, Routes, Target
from service.judge.stats import JudgeStats, RouteState
from service.stores import NANO, Reservation, Store

_ENCODER: Final = msgspec.json.Encoder()
_CODES: Final[dict[str, FailureCode]] = {"queue_full": "overloaded"}
_FALLBACK_ROUTES: Final = Routes(routes=(Route(name="default"),))


class _Question(msgspec.Struct, frozen=True, kw_only=True):
    """A question, ready to be sent.

    Attributes:
        key: Its digest.
        target: Where it goes.
        path: Where there.
        body: What is sent.
        read: Makes an outcome of the bytes that come back.
        expected: Tokens it will probably take.
    """

    key: str
    target: Target
    path: str
    body: JsonObject
    read: Callable[[bytes], Answer | Vectors]
    expected: TokenUsage


class OpenAIJudge:
    """Asks judge models and embedding models.

    Args:
        config: Behaviour common to all routes.
        routes: The upstreams.
        store: Memory shared by the replicas, or this process's.
        clock: Monotonic seconds.
        wall: Seconds since the epoch.
        random: Source of jitter.

    Raises:
        RecordingError: ``config.recording`` cannot be used.
        ValueError: ``config.mode`` is ``record`` and there is no ``config.recording``.
    """

    def __init__(  # noqa: PLR0913 - collaborators are parameters
        self,
        config: JudgeConfig,
        routes: Routes,
        store: Store,
        *,
        clock: Callable[[], float] = monotonic,
        wall: Callable[[], float] = time,
        random: Random | None = None,
    ) -> None:
        """Put the tiers together; nothing connects before the first call."""
        if config.mode == "record" and config.recording is None:
            raise ValueError("judge mode 'record' needs the path of a recording")
        self.stats = JudgeStats()
        self._config = config
        self._clock = clock
        # Replaying needs no upstream, but questions name one.
        replay = config.mode == "replay"
        self._routes = _FALLBACK_ROUTES if replay and not routes.routes else routes
        self._cache = Cache(
            store,
            self.stats,
            ttl_s=config.cache_ttl_s,
            near_ttl_s=config.near_ttl_s,
            near_entries=config.near_entries,
            near_bytes=config.near_bytes,
            clock=clock,
        )
        self._flights = Flights(
            store,
            self._cache,
            self.stats,
            lease_s=config.lease_s,
            patience_s=config.deadline_s,
            clock=clock,
        )
        self._budgets = Budgets(config.budget, store, self.stats, wall=wall)
        self._upstreams = Upstreams(wall=wall)
        self._lanes = {
            route.name: Lane(
                route, config.retry, self.stats, share=config.share, clock=clock, random=random
            )
            for route in self._routes.routes
        }
        self._recording: Recording | None = None
        if config.recording is not None and config.mode != "live":
            self._recording = Recording(config.recording, mode=config.mode)
        self._settling: set[asyncio.Task[None]] = set()

    @property
    def route_states(self) -> tuple[RouteState, ...]:
        """How every route is doing now."""
        return tuple(lane.state for lane in self._lanes.values())

    async def judge(self, call: JudgeCall) -> JudgeReply:
        """Return the judge model's reply to ``call``, on the terms of `current_context`.

        Raises:
            JudgeUnavailableError: No reply; `BudgetExceededError` and `MissingRecordingError` are
                kinds of it.
            OverloadedError: The route's queue is full.
        """
        context = current_context()
        question = self._question(call, context)
        landed = await self._land(question, context, JudgeUnavailableError)
        answer = landed.outcome
        if not isinstance(answer, Answer):
            raise _wrong_kind(JudgeUnavailableError)
        return JudgeReply(
            content=answer.content,
            refusal=answer.refusal,
            finish_reason=answer.finish_reason,
            model=answer.model,
            usage=answer.usage,
            key=question.key,
            cached=landed.part not in {"leader", "alone"},
            diagnostics=_diagnostics(question, landed, call),
        )

    async def embed(self, call: EmbeddingCall) -> EmbeddingReply:
        """Return one vector a text of ``call``; cached and limited as judge calls are.

        Raises:
            EmbedderUnavailableError: No reply.
            BudgetExceededError: The budget is spent.
            OverloadedError: The route's queue is full.
        """
        context = current_context()
        target = self._target(call.model, EmbedderUnavailableError)
        body = embeddings_body(call, target.model)
        tokens = sum(map(text_tokens, call.texts))
        question = _Question(
            key=digest(target.route, body, (0, 0)),
            target=target,
            path="/embeddings",
            body=body,
            read=lambda raw: vectors(raw, call, target.model),
            expected=TokenUsage(prompt_tokens=tokens, total_tokens=tokens),
        )
        landed = await self._land(question, context, EmbedderUnavailableError)
        found = landed.outcome
        if not isinstance(found, Vectors):
            raise _wrong_kind(EmbedderUnavailableError)
        return EmbeddingReply(
            vectors=found.vectors,
            model=found.model,
            usage=found.usage,
            key=question.key,
            cached=landed.part not in {"leader", "alone"},
        )

    async def spent_today(self, context: JudgeContext) -> dict[str, float | None]:
        """Return dollars spent today by budget that applies to ``context``."""
        return await self._budgets.spent_today(context)

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
        """Import the client library and make all clients, so that no judge call has to wait."""
        await self._upstreams.warm(map(self._any_target, self._routes.routes))

    async def close(self) -> None:
        """End calls on their way, settle money, and close connections and the recording."""
        await self._flights.close()
        if self._settling:
            await asyncio.wait(self._settling, timeout=1.0)
        await self._upstreams.close()
        if self._recording is not None:
            self._recording.close()

    def _any_target(self, route: Route) -> Target:
        key = self._routes.api_keys.get(route.name)
        return Target(route=route, api_key=key, model="", asked_model="")

    def _target(self, model: str, unavailable: type[UpstreamError]) -> Target:
        target = self._routes.target(model)
        if target is None:
            raise unavailable(
                f"no route answers for model {model!r}", retryable=False, kind="no_route"
            )
        return target

    def _question(self, call: JudgeCall, context: JudgeContext) -> _Question:
        target = self._target(context.model or call.model, JudgeUnavailableError)
        route = target.route
        asks_responses = route.api == "responses"
        body = (responses_body if asks_responses else chat_body)(call, route, target.model)
        answer = responses_answer if asks_responses else chat_answer
        try:
            key = digest(route, body, (context.sample_index, call.sample_index))
        except (UnicodeError, TypeError, ValueError) as error:
            raise JudgeUnavailableError(
                "the question holds text or numbers that JSON cannot carry",
                retryable=False,
                kind="unsendable",
            ) from error
        return _Question(
            key=key,
            target=target,
            path="/responses" if asks_responses else "/chat/completions",
            body=body,
            read=lambda raw: answer(raw, call, route, target.model),
            expected=expected_usage(call, route) if _counts(route) else TokenUsage(),
        )

    async def _land(
        self, question: _Question, context: JudgeContext, unavailable: type[UpstreamError]
    ) -> Landed:
        left = self._config.deadline_s
        if context.ends_at is not None:
            left = min(left, context.ends_at - self._clock())
        try:
            async with asyncio.timeout(max(0.0, left)):
                landed = await self._find(question, context)
        except TimeoutError as error:
            self.stats.refused["deadline"] += 1
            raise unavailable("no answer before the deadline", kind="deadline") from error
        if isinstance(landed.outcome, Failed):
            raise landed.outcome.error(unavailable)
        if self._recording is not None:
            self._recording.record(question.key, landed.outcome)
        return landed

    async def _find(self, question: _Question, context: JudgeContext) -> Landed:
        count = self.stats.cache
        key = question.key
        replay = self._config.mode == "replay"
        if context.cache != "read-write" and not replay:
            count[context.cache] += 1
            if context.cache == "off":
                return await self._ask(question, context)
        else:
            near = self._cache.near(key)
            if near is not None:
                count["hit_process"] += 1
                return Landed(outcome=near, part="hit_process")
        if replay:
            return await self._replay(key)
        landed = await self._flights.run(
            key,
            (context.api_key, context.grader),
            lambda: self._ask(question, context),
            mode="shared" if context.cache == "read-write" else "refresh",
        )
        if context.cache == "read-write":
            count["hit_store" if landed.part == "hit_store" else "miss"] += 1
        return landed

    async def _replay(self, key: str) -> Landed:
        # The recording comes first: a cache that somebody refreshed must not change a replay.
        outcome: Outcome | None = self._recording.find(key) if self._recording else None
        if outcome is None:
            outcome = await self._cache.look(key)
        self.stats.cache["miss" if outcome is None else "hit_store"] += 1
        if outcome is None:
            outcome = Failed(
                code="missing_recording",
                details="neither the cache nor the recording has this question",
                kind="missing_recording",
                retryable=False,
            )
        return Landed(outcome=outcome, part="hit_store")

    async def _ask(self, question: _Question, context: JudgeContext) -> Landed:
        """Return what the upstream says, paid for by ``context``; failures are outcomes, too."""
        route = question.target.route
        cost = 0 if route.price is None else route.price.nanodollars(question.expected)
        reserved = await self._budgets.reserve(context, cost, hold_s=self._config.deadline_s)
        if isinstance(reserved, Failed):
            return Landed(outcome=reserved, part="leader")
        spent = 0
        try:
            landed = await self._send(question)
            spent = landed.nanodollars
        finally:
            if reserved is not None:
                self._settle(reserved, spent)
        outcome = landed.outcome
        if not isinstance(outcome, Failed):
            self.stats.paid(outcome.model, outcome.usage)
            self.stats.nanodollars[context.api_key, context.grader, outcome.model] += spent
            self.stats.unpriced[route.name] += route.price is None
        return landed

    async def _send(self, question: _Question) -> Landed:
        route = question.target.route
        lane = self._lanes[route.name]
        content = _ENCODER.encode(question.body)

        async def once() -> Answer | Vectors:
            raw = await self._upstreams.post(question.target, question.path, content)
            return question.read(raw)

        began = self._clock()
        await self._upstreams.ready(question.target)
        expected = question.expected.total_tokens
        try:
            outcome, attempts = await lane.call(
                once, tokens=expected, ends_at=began + self._config.deadline_s
            )
        except CallFailedError as error:
            self.stats.refused[error.kind] += error.attempts == 0
            return Landed(
                outcome=_failure(route, error),
                part="leader",
                attempts=error.attempts,
                seconds=self._clock() - began,
            )
        lane.learned(expected=expected, used=outcome.usage.total_tokens)
        return Landed(
            outcome=outcome,
            part="leader",
            attempts=attempts,
            nanodollars=0 if route.price is None else route.price.nanodollars(outcome.usage),
            seconds=self._clock() - began,
        )

    def _settle(self, reservation: Reservation, spent: int) -> None:
        """Settle without making the answer wait, even when the call was cancelled."""
        task = asyncio.create_task(self._budgets.settle(reservation, spent=spent))
        self._settling.add(task)
        task.add_done_callback(self._settling.discard)


def _counts(route: Route) -> bool:
    """Return whether anything on ``route`` depends on how many tokens to expect."""
    return route.price is not None or route.tokens_per_minute is not None


def _failure(route: Route, error: CallFailedError) -> Failed:
    tries = f" after {error.attempts} attempts" if error.attempts > 1 else ""
    return Failed(
        code=_CODES.get(error.kind, "unavailable"),
        details=f"judge route {route.name!r}: {error.details}{tries}",
        kind=error.kind,
        retryable=error.retryable,
        retry_after_s=error.retry_after_s,
    )


def _diagnostics(question: _Question, landed: Landed, call: JudgeCall) -> dict[str, Any]:
    target = question.target
    found: dict[str, Any] = {
        "route": target.route.name,
        "source": landed.part,
        "cost_usd": landed.nanodollars / NANO,
    }
    if landed.attempts:
        found |= {"attempts": landed.attempts, "seconds": round(landed.seconds, 3)}
    if target.successor is not None:
        found["successor"] = {"asked": target.asked_model, "answered_by": target.successor}
    left_out = dropped(call, target.route)
    if left_out:
        found["left_out"] = list(left_out)
    return found


def _wrong_kind(unavailable: type[UpstreamError]) -> UpstreamError:
    return unavailable("a stored outcome is of another kind", kind="garbage")
