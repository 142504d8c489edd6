"""``graders/run`` and ``graders/validate`` as the official clients call them (spec §1.4).

A grader that cannot grade this sample answers 200 with reward 0.0 and a flag, as the hosted
service does; only requests and definitions that cannot be used are 400.
"""

from __future__ import annotations

import secrets
import string
import time
from typing import Any

from litestar import Router, post
from litestar.params import JSONBody

from graders.grade import ErrorFlags, Grade, SchemaErrorFlags, error_flags
from graders.sample import Sample
from service.endpoints.documented import openai_errors
from service.grading import total_usage, unless_gone
from service.judge import judging
from service.lean import DIRECT, LeanRequest, LeanResponse, typed
from service.masking import masked
from service.services import Services
from service.terms import terms
from service.wire import RunMetadata, RunRequest, RunResponse, ValidateRequest, ValidateResponse

_ALPHABET = string.ascii_letters + string.digits
_FLAGS: dict[str, type[Any]] = {"live": ErrorFlags, "schema": SchemaErrorFlags}
_NO_ERRORS = {profile: flags() for profile, flags in _FLAGS.items()}


@post(
    "/graders/run",
    opt={DIRECT: typed},
    status_code=200,
    operation_id="runGrader",
    summary="Run a grader",
    responses=openai_errors(400, 401, 403, 413),
)
async def run(request: LeanRequest, data: JSONBody[RunRequest]) -> RunResponse:
    """Grade ``model_sample`` with the posted grader."""
    services: Services = request.app.state.services
    grader = services.adhoc.compile(bytes(data.grader), "run")
    started = time.perf_counter()
    item, sample = data.item or {}, Sample(data.model_sample)
    counter = services.counts.ad_hoc(grader.type)
    if grader.is_pure:
        grade = grader.grade_now(item, sample)
        counter.took(time.perf_counter() - started)
    else:
        with judging(terms(request, "")):
            asked = grader.grade(item, sample, services.ports)
            grade = await unless_gone(asked, request.until_gone())
    seconds = time.perf_counter() - started
    counter.graded(grade)
    name = grader.grader.name or _generated_name()
    return answer(grade, name, grader.type, seconds, services.settings.response_profile)


@post(
    "/graders/validate",
    status_code=200,
    operation_id="validateGrader",
    summary="Validate a grader",
    responses=openai_errors(400, 401, 403, 413),
)
async def validate(request: LeanRequest, data: JSONBody[ValidateRequest]) -> ValidateResponse:
    """Return the posted grader as understood, its name filled in, or why it is none."""
    services: Services = request.app.state.services
    grader = services.adhoc.compile(bytes(data.grader), "validate")
    document = masked(grader.document)
    if grader.grader.name is None:
        document = {**document, "name": _generated_name()}
    return ValidateResponse(grader=document)


def answer(grade: Grade, name: str, kind: str, seconds: float, profile: str) -> RunResponse:
    """Return ``grade`` in ``profile``: ``live`` as recorded, ``schema`` as published (§9.3)."""
    usage = total_usage(grade.usage)
    errors: Any = _NO_ERRORS[profile]
    if grade.failures:
        errors = error_flags(grade.failures, _FLAGS[profile])
    return RunResponse(
        reward=grade.reward,
        metadata=RunMetadata(
            name=name,
            type=kind,
            errors=errors,
            execution_time=seconds,
            token_usage=usage if profile == "live" or usage is None else usage.total_tokens,
            sampled_model_name=grade.sampled_model_name,
        ),
        sub_rewards=grade.sub_rewards,
        model_grader_token_usage_per_model=grade.usage,
    )


def _generated_name() -> str:
    """Return a name as the hosted service makes them up: ``grader-`` and 12 alphanumerics."""
    return "grader-" + "".join(secrets.choice(_ALPHABET) for _ in range(12))


def routers() -> list[Router]:
    """Return the routes under OpenAI's prefix and under Azure's."""
    return [
        Router(
            path=prefix,
            route_handlers=[run, validate],
            request_class=LeanRequest,
            response_class=LeanResponse,
            tags=["OpenAI-compatible"],
            include_in_schema=prefix.startswith("/v1"),
        )
        for prefix in ("/v1/fine_tuning/alpha", "/openai/v1/fine_tuning/alpha")
    ]
