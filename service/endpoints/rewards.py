"""Rewards in each caller's own wire format: one route a dialect, all of them alike.

Read, grade, refuse what the URL calls an error, reply. What a format means stands in
`service.dialects`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any, NoReturn

import msgspec
from litestar import Router, get, post
from litestar.exceptions import ClientException
from litestar.handlers import HTTPRouteHandler
from litestar.openapi import ResponseSpec

from graders.errors import BudgetExceededError, Finding, OverloadedError, UpstreamError
from graders.registry import Definition
from service.dialects import DIALECTS, Dialect, mapping, nemo_gym, roll
from service.dialects.contract import Graded, Options, ParameterError, Reading, Row
from service.dialects.refusing import Refusal, refusal, without_tracebacks
from service.endpoints.documented import problems, takes_json
from service.endpoints.scores import Name, Version
from service.grading import RowGrader, unless_gone
from service.jobs import Endings
from service.judge import JudgeContext
from service.lean import DIRECT, LeanRequest, LeanResponse, decode, own
from service.problems import NotAvailableError, UngradedError
from service.services import Services
from service.terms import terms
from service.wire import RowResult

_CACHED_URLS = 256
_REFUSED = problems(400, 401, 403, 404, 413, 414)
_NO_JUDGE = JudgeContext()
_encode = msgspec.json.Encoder().encode
_ENDINGS = Endings(
    running=_encode(roll.RUNNING), timed_out=_encode(roll.TIMED_OUT), broken=_encode(roll.BROKEN)
)


class _Reader:
    """Reads requests of one dialect; URLs, which repeat, are read once."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self._decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(dialect.request)
        self._options = lru_cache(_CACHED_URLS)(partial(mapping.parse, dialect))

    async def read(self, request: LeanRequest) -> tuple[Options, Reading]:
        """Return the URL's options and the rows of the body.

        Raises:
            ClientException: The URL, the body or a row cannot be used.
        """
        query = request.scope["query_string"].decode("latin-1")
        try:
            options = self._options(query)
        except ParameterError as error:
            extra = [{"key": error.name, "message": error.problem}]
            raise ClientException(str(error), extra=extra) from error
        body = await request.body()
        typed = decode(self._decoder, body)
        try:
            return options, self._dialect.read(typed, options, body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ClientException("the JSON cannot be read to its end") from error


async def _graded(
    request: LeanRequest, definition: Definition, rows: Sequence[Row], *, waits: bool
) -> list[RowResult]:
    """Return one result a row; stop once the caller has gone, if it ``waits``."""
    services: Services = request.app.state.services
    limit = services.settings.max_batch_rows
    if len(rows) > limit:
        raise ClientException(f"{len(rows)} rows; the limit is {limit}", status_code=413)
    grader = RowGrader(
        definition,
        services.ports,
        services.definitions.counter(definition),
        terms=_NO_JUDGE  # reading headers costs as much as grading
        if definition.grader.is_pure
        else terms(request, f"{definition.name}@{definition.version}"),
        concurrency=services.settings.max_concurrent_rows,
    )
    results = grader.turn(rows)
    if len(results) < len(rows):
        rest = grader.batch(rows[len(results) :])
        gone = request.until_gone() if waits else None
        results += await (unless_gone(rest, gone) if gone else rest)
    return results if grader.ok == len(rows) else without_tracebacks(results)


def _raise(refused: Refusal) -> NoReturn:
    """Raise what `service.problems` answers a refusal with.

    Raises:
        NotAvailableError, OverloadedError, BudgetExceededError, UpstreamError: Nobody could be
            asked about a row.
        UngradedError: The grader could not grade a row.
    """
    if refused.status == 422:  # noqa: PLR2004 - HTTP
        raise UngradedError(
            [
                Finding(pointer=f"/{index}", message=error.message, code=error.code)
                for index, error in refused.errors.items()
            ]
        )
    (error,) = refused.errors.values()
    if refused.status == 501:  # noqa: PLR2004 - HTTP
        raise NotAvailableError(error.message)
    default = OverloadedError if refused.status == 429 else UpstreamError  # noqa: PLR2004 - HTTP
    kind = BudgetExceededError if error.code == BudgetExceededError.code else default
    raise kind(error.message, retryable=error.retryable, retry_after_s=error.retry_after_s)


def _settled(
    definition: Definition, options: Options, reading: Reading, results: Sequence[RowResult]
) -> Graded:
    return Graded(
        memo=reading.memo,
        results=results,
        options=options,
        grader=definition.name,
        version=definition.version,
    )


def _handler(dialect: Dialect) -> HTTPRouteHandler:
    """Return the route of a dialect that answers at once."""
    reader = _Reader(dialect)

    async def reward(request: LeanRequest, name: Name, version: Version) -> LeanResponse:
        services: Services = request.app.state.services
        definition = await services.publications.find(name, version)
        options, reading = await reader.read(request)
        results = await _graded(request, definition, reading.rows, waits=True)
        refused = refusal(dialect, options, results)
        if refused is not None:
            _raise(refused)
        return LeanResponse(dialect.reply(_settled(definition, options, reading, results)))

    return _posted(dialect, reward)


def _submitting(dialect: Dialect) -> HTTPRouteHandler:
    """Return the route that takes a sample to be polled for."""
    reader = _Reader(dialect)

    async def submit(request: LeanRequest, name: Name, version: Version) -> LeanResponse:
        services: Services = request.app.state.services
        definition = await services.publications.find(name, version)
        options, reading = await reader.read(request)

        async def work() -> bytes:
            results = await _graded(request, definition, reading.rows, waits=False)
            return _encode(dialect.reply(_settled(definition, options, reading, results)))

        timeout_s: float = reading.memo
        job = await services.jobs.submit(work, _ENDINGS, timeout_s=timeout_s)
        return LeanResponse(roll.Submitted(reward_request_id=job))

    return _posted(dialect, submit)


def _posted(dialect: Dialect, function: Callable[..., Any]) -> HTTPRouteHandler:
    function.__doc__ = f"Grade as {dialect.callers} asks for it."
    parameters = [(p.name, p.default, p.values, p.meaning) for p in dialect.parameters]
    return post(
        [f"/{dialect.name}{suffix}" for suffix in ("", *dialect.suffixes)],
        status_code=200,
        opt={DIRECT: own},
        operation_id=_operation_id,
        summary=f"Reward for {dialect.callers}",
        operation_class=takes_json(
            dialect.request, dialect.answer, example=dialect.example, parameters=parameters
        ),
        responses=problems(400, 401, 403, 404, 413, 414, 422, 429, 501, 503),
    )(function)


def _operation_id(_: Any, __: Any, path: list[Any]) -> str:  # noqa: ANN401 - Litestar's creator
    """Return a name for the route at ``path``, of which a dialect may have two."""
    steps = [step for step in path if isinstance(step, str)]
    return "_".join(("reward", *steps[steps.index("rewards") + 1 :]))


@get(
    "/roll",
    operation_id="pollRoll",
    summary="Poll a reward for ROLL",
    responses={
        200: ResponseSpec(roll.Result, description="What is known."),
        **_REFUSED,
        **problems(503),
    },
)
async def poll_roll(request: LeanRequest, name: Name, version: Version) -> LeanResponse:
    """Return what is known of a submitted sample; the GET has a JSON body."""
    services: Services = request.app.state.services
    await services.publications.find(name, version)
    asked = decode(_POLL, await request.body())
    found = await services.jobs.poll(asked.reward_request_id, _ENDINGS)
    return LeanResponse(roll.UNKNOWN if found is None else msgspec.Raw(found))


_POLL = msgspec.json.Decoder(roll.Poll)
_AGGREGATE = msgspec.json.Decoder(nemo_gym.AggregateRequest)


@post(
    "/nemo-gym/seed_session",
    status_code=200,
    operation_id="seedSession",
    summary="Start a session",
    responses={200: ResponseSpec(dict[str, str], description="Nothing to keep."), **_REFUSED},
)
async def seed_session(request: LeanRequest, name: Name, version: Version) -> LeanResponse:
    """Answer that nothing needs to be kept: grading has no session."""
    services: Services = request.app.state.services
    await services.publications.find(name, version)
    await request.body()
    return LeanResponse({})


@post(
    "/nemo-gym/aggregate_metrics",
    status_code=200,
    operation_id="aggregateMetrics",
    summary="Statistics over replies",
    operation_class=takes_json(
        nemo_gym.AggregateRequest, nemo_gym.AggregateMetrics, example={"verify_responses": []}
    ),
    responses=_REFUSED,
)
async def aggregate_metrics(request: LeanRequest, name: Name, version: Version) -> LeanResponse:
    """Return the statistics of the replies that are not masked."""
    services: Services = request.app.state.services
    await services.publications.find(name, version)
    return LeanResponse(nemo_gym.aggregate(decode(_AGGREGATE, await request.body())))


def router() -> Router:
    """Return the routes."""
    handlers = [
        _submitting(dialect) if dialect is roll.DIALECT else _handler(dialect)
        for dialect in DIALECTS.values()
    ]
    return Router(
        path="/v1/graders/{name:str}/versions/{version:str}/rewards",
        route_handlers=[*handlers, poll_roll, seed_session, aggregate_metrics],
        request_class=LeanRequest,
        response_class=LeanResponse,
        tags=["Rewards"],
    )
