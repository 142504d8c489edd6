"""Publishing definitions and moving labels; needs the scope ``publish``."""

from __future__ import annotations

from typing import Annotated, Any

from litestar import Response, delete, post, put
from litestar.openapi import ResponseSpec
from litestar.params import JSONBody, Parameter

from service.endpoints.documented import problems, takes_json
from service.endpoints.scores import Name
from service.endpoints.shown import etag, shown, summary
from service.lean import LeanRequest
from service.services import Services
from service.wire import DefinitionResponse, GraderSummary, LabelRequest

Label = Annotated[str, Parameter(description="Lower-case letters, digits and `.`, `_`, `-`.")]

_EXAMPLE = {
    "type": "string_check",
    "name": "capital",
    "operation": "ilike",
    "input": "{{sample.output_text}}",
    "reference": "{{item.answer}}",
}


@post(
    "/{name:str}/versions",
    status_code=201,
    request_class=LeanRequest,
    tags=["Publishing"],
    operation_id="publishVersion",
    summary="Publish a version",
    operation_class=takes_json(dict[str, Any], None, example=_EXAMPLE),
    responses={
        200: ResponseSpec(DefinitionResponse, description="This very definition is there already."),
        **problems(400, 401, 403, 409, 413, 501, 503),
    },
)
async def publish_version(request: LeanRequest, name: Name) -> Response[DefinitionResponse]:
    """Keep the grader JSON of the body as the next version of a grader, byte for byte, for ever.

    A document that is there already keeps its version and is answered with 200. Every replica can
    score with the version once this has answered; `latest` and labels follow within a second.
    """
    services: Services = request.app.state.services
    definition, is_new = await services.publications.publish(name, await request.body())
    place = f"/v1/graders/{definition.name}/versions/{definition.version}"
    return Response(
        shown(services, definition),
        status_code=201 if is_new else 200,
        headers={**etag(definition), "location": place},
    )


@put(
    "/{name:str}/labels/{label:str}",
    request_class=LeanRequest,
    tags=["Publishing"],
    operation_id="putLabel",
    summary="Point a label at a version",
    responses=problems(400, 401, 403, 404, 409, 501, 503),
)
async def put_label(
    request: LeanRequest, name: Name, label: Label, data: JSONBody[LabelRequest]
) -> Response[GraderSummary]:
    """Make ``label`` name a version of a published grader."""
    services: Services = request.app.state.services
    await services.publications.label(name, label, data.version)
    return Response(summary(services, name))


@delete(
    "/{name:str}/labels/{label:str}",
    request_class=LeanRequest,
    tags=["Publishing"],
    operation_id="deleteLabel",
    summary="Take a label away",
    responses=problems(400, 401, 403, 404, 409, 501, 503),
)
async def delete_label(request: LeanRequest, name: Name, label: Label) -> None:
    """Take ``label`` away; its versions stay."""
    services: Services = request.app.state.services
    await services.publications.label(name, label, None)


HANDLERS = (publish_version, put_label, delete_label)
