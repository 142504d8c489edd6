"""What graders there are, what they say, and how to submit them elsewhere."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from litestar import Request, Response, Router, get
from litestar.exceptions import ClientException
from litestar.params import Parameter

from graders.errors import Finding
from graders.export import Form, Hyperparameters, Job, Target, export
from service.endpoints import publishing
from service.endpoints.documented import problems
from service.endpoints.scores import Name, Version
from service.endpoints.shown import etag, labels_of, shown, summary
from service.masking import masked
from service.services import Services
from service.wire import (
    DefinitionResponse,
    ExportResponse,
    GraderList,
    GraderSummary,
    VersionList,
    VersionSummary,
)

_Request = Request[Any, Any, Any]
_HIDDEN = Finding(
    pointer="",
    message="the values of 'headers' are secret and hidden here; put them in before submitting.",
    code="hidden_headers",
    severity="warning",
)
_MISSING = problems(400, 401, 403, 404, 414)


class _Hyperparameters(
    Hyperparameters, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True
):
    """Refuses what would be lost: a misspelt hyperparameter."""


def _services(request: _Request) -> Services:
    services: Services = request.app.state.services
    return services


@get(
    "/",
    operation_id="listGraders",
    summary="List graders",
    responses=problems(401, 403),
)
async def list_graders(request: _Request) -> GraderList:
    """Return every grader with its latest version."""
    services = _services(request)
    names = services.definitions.registry.names()
    return GraderList(graders=[summary(services, name) for name in names])


@get("/{name:str}", operation_id="getGrader", summary="One grader", responses=_MISSING)
async def get_grader(request: _Request, name: Name) -> GraderSummary:
    """Return one grader with its latest version and labels."""
    services = _services(request)
    await services.publications.find(name, "latest")
    return summary(services, name)


@get(
    "/{name:str}/versions", operation_id="listVersions", summary="List versions", responses=_MISSING
)
async def list_versions(request: _Request, name: Name) -> VersionList:
    """Return the versions of a grader, oldest first."""
    services = _services(request)
    await services.publications.find(name, "latest")
    versions = [
        VersionSummary(
            version=definition.version,
            digest=definition.digest,
            type=definition.grader.type,
            labels=labels_of(services, definition),
        )
        for definition in services.definitions.registry.versions(name)
    ]
    return VersionList(grader=name, versions=versions)


@get(
    "/{name:str}/versions/{version:str}",
    operation_id="getVersion",
    summary="One version",
    responses=_MISSING,
)
async def get_version(
    request: _Request, name: Name, version: Version
) -> Response[DefinitionResponse]:
    """Return a definition as it is stored, with its digest, lint and examples."""
    services = _services(request)
    definition = await services.publications.find(name, version)
    return Response(shown(services, definition), headers=etag(definition))


@get(
    "/{name:str}/versions/{version:str}/export",
    operation_id="exportVersion",
    summary="Exactly the JSON to submit",
    responses=problems(400, 401, 403, 404, 414, 422),
)
async def export_version(  # noqa: PLR0913, PLR0917 - the query parameters of a job
    request: _Request,
    name: Name,
    version: Version,
    target: Annotated[Target, Parameter(description="Whose published shape to follow.")] = "openai",
    form: Annotated[
        Form,
        Parameter(
            description="The bare grader, a whole fine-tuning job, or Evals testing criteria."
        ),
    ] = "grader",
    model: Annotated[str | None, Parameter(description="Base model of the job.")] = None,
    training_file: Annotated[str | None, Parameter(description="File id for the job.")] = None,
    validation_file: Annotated[str | None, Parameter(description="File id for the job.")] = None,
    suffix: Annotated[
        str | None, Parameter(description="Suffix of the tuned model's name.")
    ] = None,
    seed: Annotated[int | None, Parameter(description="Seed of the job.")] = None,
    hyperparameters: Annotated[
        str | None, Parameter(description='Hyperparameters of the job, as JSON: `{"n_epochs": 2}`.')
    ] = None,
) -> Response[ExportResponse]:
    """Return the definition as the target takes it, and everything that could not be carried."""
    definition = await _services(request).publications.find(name, version)
    job = _job(model, training_file, validation_file, suffix, seed, hyperparameters)
    metadata = {
        "gradekeeper": f"{definition.name}@{definition.version}",
        "digest": definition.digest,
    }
    exported = export(definition.grader, target=target, form=form, job=job, metadata=metadata)
    body, left_out = masked(exported.body), list(exported.left_out)
    if body is not exported.body:
        left_out.append(_HIDDEN)
    answer = ExportResponse(
        grader=definition.name,
        version=definition.version,
        digest=definition.digest,
        target=target,
        form=form,
        body=body,
        left_out=left_out,
    )
    return Response(answer, headers=etag(definition))


def _job(  # noqa: PLR0913, PLR0917 - the query parameters of a job
    model: str | None,
    training_file: str | None,
    validation_file: str | None,
    suffix: str | None,
    seed: int | None,
    hyperparameters: str | None,
) -> Job | None:
    if model is None or training_file is None or validation_file is None:
        return None
    try:
        settings = msgspec.json.decode(hyperparameters or "{}", type=_Hyperparameters)
    except (msgspec.DecodeError, RecursionError, UnicodeError) as error:
        raise ClientException(f"hyperparameters: {error}") from error
    return Job(
        model=model,
        training_file=training_file,
        validation_file=validation_file,
        suffix=suffix,
        seed=seed,
        hyperparameters=settings,
    )


def router() -> Router:
    """Return the routes, those of `service.endpoints.publishing` included: paths are shared."""
    return Router(
        path="/v1/graders",
        route_handlers=[
            list_graders,
            get_grader,
            list_versions,
            get_version,
            export_version,
            *publishing.HANDLERS,
        ],
        tags=["Registry"],
    )
