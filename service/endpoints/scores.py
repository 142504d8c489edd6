"""Scoring with a named, versioned definition: one row, or many."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from litestar import Router, post
from litestar.exceptions import ClientException
from litestar.openapi import ResponseSpec
from litestar.params import JSONBody, Parameter

from graders.grade import ErrorFlags, error_flags
from graders.registry import Definition
from service.endpoints.documented import either, problems
from service.grading import (
    Row,
    RowGrader,
    error_of,
    raise_upstream,
    read_rows,
    sample_of,
    unless_gone,
)
from service.groups import grouped
from service.judge import judging
from service.judging import cost_of
from service.lean import DIRECT, LeanRequest, LeanResponse, typed
from service.sampling import SampledRowGrader, drawn, refuse_unless_judged
from service.services import Services
from service.streaming import NDJSON, NO_GROUPS, RowStream, Stream
from service.terms import terms
from service.wire import (
    BatchRequest,
    BatchResponse,
    EnsembleResult,
    RowResult,
    SampledRequest,
    ScoreRequest,
    ScoreResponse,
    StreamEnd,
)

Name = Annotated[str, Parameter(description="Name of the grader.")]
Version = Annotated[str, Parameter(description="Integer version, `latest`, or a label.")]
Debug = Annotated[bool, Parameter(description="Also return what judges and user code reported.")]


def reference(definition: Definition) -> dict[str, Any]:
    """Return the fields that say which version graded, and how."""
    grader = definition.grader
    return {
        "grader": definition.name,
        "version": definition.version,
        "digest": definition.digest,
        "signature": definition.signature,
        "pass_threshold": grader.threshold,
        "threshold_source": grader.threshold_source,
    }


@post(
    "/score",
    opt={DIRECT: typed},
    status_code=200,
    operation_id="score",
    summary="Score one sample",
    responses=problems(400, 401, 403, 404, 413, 414, 424, 429, 501, 503),
)
async def score(
    request: LeanRequest,
    name: Name,
    version: Version,
    data: JSONBody[SampledRequest],
    debug: Debug = False,  # noqa: FBT002 - a query parameter
) -> ScoreResponse:
    """Return the reward of one sample, or 503 when something outside could not be asked."""
    services: Services = request.app.state.services
    definition = await services.publications.find(name, version)
    grader = definition.grader
    sample = sample_of(data)
    ensemble: EnsembleResult | msgspec.UnsetType = msgspec.UNSET
    counter = services.definitions.counter(definition)
    started = time.perf_counter()
    if data.sampling is not None:
        refuse_unless_judged(grader)
        context = terms(request, f"{definition.name}@{definition.version}")
        draws = drawn(definition, (data.item, sample), services.ports, data.sampling, context)
        grade, ensemble = await unless_gone(draws, request.until_gone())
    elif grader.is_pure:
        grade = grader.grade_now(data.item, sample)
        counter.took(time.perf_counter() - started)
    else:
        with judging(terms(request, f"{definition.name}@{definition.version}")):
            asked = grader.grade(data.item, sample, services.ports)
            grade = await unless_gone(asked, request.until_gone())
    seconds = time.perf_counter() - started
    counter.graded(grade)
    if grade.failures:
        raise_upstream(grade)
    return ScoreResponse(
        grader=definition.name,
        version=definition.version,
        digest=definition.digest,
        signature=grade.signature(definition.signature),
        pass_threshold=grader.threshold,
        threshold_source=grader.threshold_source,
        reward=grade.own_reward,
        ok=grade.ok,
        passed=grade.ok and grade.reward >= grader.threshold,
        error=error_of(grade.failures),
        errors=error_flags(grade.failures, ErrorFlags) if grade.failures else None,
        sub_rewards=grade.sub_rewards,
        execution_time=seconds,
        token_usage=grade.usage,
        sampled_model_name=grade.sampled_model_name,
        cost_usd=cost_of(grade),
        diagnostics=grade.diagnostics if debug else msgspec.UNSET,
        ensemble=ensemble,
    )


@post(
    "/score/batch",
    status_code=200,
    operation_id="scoreBatch",
    summary="Score many samples",
    operation_class=either(BatchRequest, ScoreRequest, NDJSON, RowResult, StreamEnd),
    responses={
        200: ResponseSpec(BatchResponse, description="One result a row."),
        **problems(400, 401, 403, 404, 413, 414),
    },
)
async def score_batch(
    request: LeanRequest,
    name: Name,
    version: Version,
    debug: Debug = False,  # noqa: FBT002 - a query parameter
) -> LeanResponse:
    """Return one result a row.

    A JSON body holds all rows (and ``sampling`` for all of them) and is answered in their order.
    With the content type ``application/x-ndjson`` every line is a row, without ``sampling``.
    Such a body, or the header ``Accept: application/x-ndjson``, has results streamed back as they
    complete, each with the ``index`` of its row, and a last line with the summary, which says that
    nothing is missing.
    """
    services: Services = request.app.state.services
    definition = await services.publications.find(name, version)
    decoders = services.definitions.decoders(definition)
    settings = services.settings
    grading: dict[str, Any] = {
        "definition": definition,
        "ports": services.ports,
        "counter": services.definitions.counter(definition),
        "terms": terms(request, f"{definition.name}@{definition.version}"),
        "debug": debug,
        "concurrency": settings.max_concurrent_rows,
    }
    if request.headers.get("content-type", "").lower().startswith(NDJSON):
        stream = Stream(
            grader=RowGrader(**grading),
            decoder=decoders.row,
            end=reference(definition),
            max_line_bytes=settings.max_line_bytes,
        )
        return LeanResponse(stream)
    batch = await decoders.batch(await request.body())
    limit = settings.max_batch_rows
    if len(batch.rows) > limit:
        message = f"{len(batch.rows)} rows; the limit is {limit}. Send NDJSON instead."
        raise ClientException(message, status_code=413)
    rows = read_rows(batch.rows)
    grader = (
        RowGrader(**grading)
        if batch.sampling is None
        else SampledRowGrader(**grading, sampling=batch.sampling)
    )
    if request.accept.best_match(["application/json", NDJSON]) == NDJSON:
        if any(row.group is not None for row in batch.rows):
            raise ClientException(NO_GROUPS)
        end = reference(definition)
        return LeanResponse(RowStream(rows, grader=grader, end=end, gone=request.until_gone))
    results, groups = grouped(
        await _graded(rows, grader, request), [row.group for row in batch.rows]
    )
    answer = BatchResponse(
        **reference(definition),
        results=results,
        summary=grader.summary(),
        groups=msgspec.UNSET if groups is None else groups,
    )
    return LeanResponse(answer)


async def _graded(rows: Sequence[Row], grader: RowGrader, request: LeanRequest) -> list[RowResult]:
    """Return one result a row, in order; stop when the client goes."""
    results = grader.turn(rows)
    if len(results) < len(rows):
        rest = grader.batch(rows[len(results) :])
        results += await unless_gone(rest, request.until_gone())
    return results


def router() -> Router:
    """Return the routes."""
    return Router(
        path="/v1/graders/{name:str}/versions/{version:str}",
        route_handlers=[score, score_batch],
        request_class=LeanRequest,
        response_class=LeanResponse,
        tags=["Scores"],
    )
