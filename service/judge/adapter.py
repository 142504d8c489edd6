"""`OpenAIJudge`: the ports `Judge` and `Embedder` over any OpenAI-compatible upstream.

A call becomes a question (`service.judge.question`), an outcome is found for it
(`service.judge.tiers`), if need be by asking (`service.judge.asker`), and the outcome becomes a
reply or a typed error. Nothing here ever makes up a verdict.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from hashlib import sha256
from random import Random
from time import monotonic, time
from typing import Any, Final

import msgspec

from graders.errors import EmbedderUnavailableError, JudgeUnavailableError, UpstreamError
from graders.grade import TokenUsage
from graders.ports import EmbeddingCall, EmbeddingReply, JudgeCall, JudgeReply
from service.endpoint_caller import AddressRule
from service.judge.asker import Asker
from service.judge.budget import Standing
from service.judge.client import ListedModel
from service.judge.config import JudgeConfig
from service.judge.context import JudgeContext, current_context
from service.judge.images import check_images
from service.judge.key import digest_of
from service.judge.outcome import Answer, Failed, Landed, Vectors
from service.judge.question import Question, embedding_question, judge_question
from service.judge.routes import Route, Routes, Target
from service.judge.stats import JudgeStats, RouteState
from service.judge.tiers import Tiers
from service.stores import NANO, Store

_MAX_TARGETS: Final = 1_000  # graders of callers may name any model
_FALLBACK_ROUTES: Final = Routes(routes=(Route(name="default"),))


class OpenAIJudge:
    """Asks judge models and embedding models.

    Args:
        config: Behaviour common to all routes.
        routes: The upstreams.
        store: Memory shared by the replicas, or this process's.
        clock: Monotonic seconds.
        wall: Seconds since the epoch.
        random: Source of jitter.
        image_rule: Which addresses images may lie at.

    Raises:
        RecordingError: ``config.recording`` cannot be used.
        ValueError: ``config.mode`` is ``record`` and there is no ``config.recording``, or a route's
            limits cannot be divided by ``config.share``.
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
        image_rule: AddressRule | None = None,
    ) -> None:
        """Put the tiers together; nothing connects before the first call."""
        self.stats = JudgeStats()
        self._image_rule = image_rule or AddressRule()
        self._deadline_s = config.deadline_s
        # Replaying needs no upstream, but questions name one.
        replay = config.mode == "replay"
        self._routes = _FALLBACK_ROUTES if replay and not routes.routes else routes
        self._targets: dict[str, Target] = {}
        self._tiers = Tiers(config, store, self.stats, clock=clock)
        self._asker = Asker(
            config, self._routes, store, self.stats, clock=clock, wall=wall, random=random
        )

    @property
    def route_states(self) -> tuple[RouteState, ...]:
        """How every route is doing now."""
        return self._asker.states

    async def judge(self, call: JudgeCall) -> JudgeReply:
        """Return the judge model's reply to ``call``, on the terms of `current_context`.

        Raises:
            JudgeUnavailableError: No reply, or an image at a private address;
                `BudgetExceededError` and `MissingRecordingError` are kinds of it.
            OverloadedError: The route's queue is full.
        """
        check_images(call, self._image_rule)
        context = current_context()
        target = self._target(context.model or call.model, JudgeUnavailableError)
        question = judge_question(call, target, context)
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
            digest=answer.digest,
            cached=not landed.paid,
            diagnostics=_diagnostics(question, landed),
        )

    async def embed(self, call: EmbeddingCall) -> EmbeddingReply:
        """Return one vector a text of ``call``; cached and limited as judge calls are.

        Every text is a question of its own: rollouts of one prompt share their reference text.

        Raises:
            EmbedderUnavailableError: No reply; `MissingRecordingError` is raised as it is.
            BudgetExceededError: The budget is spent.
            OverloadedError: The route's queue is full.
        """
        context = current_context()
        target = self._target(call.model, EmbedderUnavailableError)
        questions = {
            text: embedding_question(msgspec.structs.replace(call, texts=(text,)), target)
            for text in call.texts
        }
        asked = (
            self._land(question, context, EmbedderUnavailableError)
            for question in questions.values()
        )
        # All are waited for: what another text costs is spent, and worth keeping.
        landed = dict(
            zip(questions, await asyncio.gather(*asked, return_exceptions=True), strict=True)
        )
        found: dict[str, tuple[Landed, Vectors]] = {}
        for text, one in landed.items():
            if isinstance(one, BaseException):
                raise one
            if not isinstance(one.outcome, Vectors):
                raise _wrong_kind(EmbedderUnavailableError)
            found[text] = one, one.outcome
        return _embedding_reply(call, questions, found)

    async def budgets_today(self) -> list[Standing]:
        """Return how budgets stand: those of a name, and of all others those in use."""
        return await self._asker.budgets_today()

    async def models(self) -> dict[str, list[ListedModel] | str]:
        """Return, by route, the models its upstream lists, or one sentence why it does not."""
        return await self._asker.models()

    async def warm(self) -> None:
        """Import the client library and make all clients, so that no judge call has to wait."""
        await self._asker.warm()

    async def close(self) -> None:
        """End calls on their way, settle money, and close connections and the recording."""
        await self._tiers.close()
        await self._asker.close()

    def _target(self, model: str, unavailable: type[UpstreamError]) -> Target:
        target = self._targets.get(model)
        if target is None:
            target = self._routes.target(model)
            if target is not None and len(self._targets) < _MAX_TARGETS:
                self._targets[model] = target
        if target is None:
            raise unavailable(
                f"no route answers for model {model!r}: set OPENAI_API_KEY or OPENAI_BASE_URL, "
                "or name a routes file in GRADEKEEPER_JUDGE_ROUTES_FILE",
                retryable=False,
                kind="no_route",
            )
        return target

    async def _land(
        self, question: Question, context: JudgeContext, unavailable: type[UpstreamError]
    ) -> Landed:
        at_hand = self._tiers.at_hand(question.key, context)
        if at_hand is not None:  # half of a hit's time would be the deadline's
            return at_hand
        # All calls of one grade (parts, draws, texts) start together, so this bounds the grade.
        try:
            async with asyncio.timeout(self._deadline_s):
                landed = await self._tiers.find(
                    question.key, context, lambda: self._asker.ask(question, context)
                )
        except TimeoutError as error:
            self.stats.refused["deadline"] += 1
            raise unavailable("no answer before the deadline", kind="deadline") from error
        if isinstance(landed.outcome, Failed):
            raise landed.outcome.error(unavailable)
        return landed


def _diagnostics(question: Question, landed: Landed) -> dict[str, Any]:
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
    if question.left_out:
        found["left_out"] = list(question.left_out)
    return found


def _embedding_reply(
    call: EmbeddingCall,
    questions: dict[str, Question],
    found: dict[str, tuple[Landed, Vectors]],
) -> EmbeddingReply:
    """Return the replies to all texts as one."""
    landed = [one for one, _ in found.values()]
    paid = [one for one in landed if one.paid]
    first = next(iter(questions.values()))
    return EmbeddingReply(
        vectors=tuple(found[text][1].vectors[0] for text in call.texts),
        model=next(iter(found.values()))[1].model,
        usage=sum((vectors.usage for _, vectors in found.values()), TokenUsage()),
        key=sha256("".join(one.key for one in questions.values()).encode()).hexdigest(),
        digest=digest_of(*(vectors.digest for _, vectors in found.values())),
        cached=not paid,
        diagnostics=_diagnostics(
            first,
            msgspec.structs.replace(
                (paid or landed)[0],
                attempts=sum(one.attempts for one in landed),
                nanodollars=sum(one.nanodollars for one in landed),
                seconds=max(one.seconds for one in landed),
            ),
        ),
    )


def _wrong_kind(unavailable: type[UpstreamError]) -> UpstreamError:
    return unavailable("a stored outcome is of another kind", kind="garbage")
