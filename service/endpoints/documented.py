"""What Litestar cannot find out by itself for the API description."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from litestar.openapi import ResponseSpec
from litestar.openapi.spec import (
    OpenAPIMediaType,
    OpenAPIResponse,
    OpenAPIType,
    Operation,
    Parameter,
    RequestBody,
    Schema,
)
from litestar.plugins import OpenAPISchemaPlugin
from litestar.typing import FieldDefinition

from service.wire import OpenAIErrorResponse, Problem

_STATUSES = {
    400: "The request or a definition cannot be used; says where.",
    401: "No valid key.",
    403: "The key lacks the scope.",
    404: "No such grader or version.",
    409: "Files define this grader, or no more may be published.",
    413: "The body or the batch is too large.",
    414: "The path is too long.",
    422: "The target cannot take this grader, or the grader cannot grade this sample.",
    424: "Replaying, and nobody recorded this judgement.",
    429: "The budget is spent, or too many calls wait; try again later.",
    501: "This service has nothing that runs this kind of grader.",
    503: "Something outside could not be asked; try again later.",
}


class RawSchemaPlugin(OpenAPISchemaPlugin):
    """Describes `msgspec.Raw`, JSON kept as bytes, as the object that it always is here."""

    @staticmethod
    def is_plugin_supported_type(value: Any) -> bool:  # noqa: ANN401 - any annotation
        """Return whether ``value`` is ours to describe."""
        return value is msgspec.Raw

    def to_openapi_schema(self, field_definition: FieldDefinition, schema_creator: Any) -> Schema:  # noqa: ANN401, ARG002 - the plugin's signature
        """Return the schema of a grader definition."""
        return Schema(
            type=OpenAPIType.OBJECT,
            description="A grader as OpenAI's grader JSON spells it.",
            properties={"type": Schema(type=OpenAPIType.STRING)},
            required=["type"],
        )


def problems(*statuses: int) -> dict[int, ResponseSpec]:
    """Return the description of errors on native routes."""
    return {status: _error(status, Problem, "application/problem+json") for status in statuses}


def openai_errors(*statuses: int) -> dict[int, ResponseSpec]:
    """Return the description of errors on OpenAI-compatible routes."""
    return {status: _error(status, OpenAIErrorResponse, "application/json") for status in statuses}


def _error(status: int, shape: type[Any], media_type: str) -> ResponseSpec:
    return ResponseSpec(
        shape, description=_STATUSES[status], media_type=media_type, generate_examples=False
    )


def either(
    json_type: type[Any], line_type: type[Any], line_media_type: str, *answer_lines: type[Any]
) -> type[Operation]:
    """Return an operation that takes ``json_type`` or lines, and answers lines with lines."""
    content = {
        "application/json": OpenAPIMediaType(schema=_inlined(json_type)),
        line_media_type: OpenAPIMediaType(schema=_inlined(line_type)),
    }
    answer = OpenAPIMediaType(schema=Schema(one_of=[_inlined(kind) for kind in answer_lines]))

    @dataclass
    class Documented(Operation):
        def __post_init__(self) -> None:
            self.request_body = RequestBody(content=content, required=True)
            lines = (self.responses or {}).get("200")
            if isinstance(lines, OpenAPIResponse) and lines.content is not None:
                lines.content[line_media_type] = answer

    return Documented


def takes_json(
    json_type: Any,  # noqa: ANN401 - any type that msgspec decodes
    answer: Any,  # noqa: ANN401 - any type that msgspec encodes
    *,
    example: Any,  # noqa: ANN401 - JSON
    parameters: Iterable[tuple[str, str, Sequence[str], str]] = (),
) -> type[Operation]:
    """Return an operation whose body is ``json_type`` and whose answer is ``answer``.

    Args:
        json_type: Type of the body.
        answer: Type of the answer; None leaves it to the handler's own.
        example: A body.
        parameters: Name, default, allowed values (none for a free text) and meaning of the query
            parameters.
    """
    content = {"application/json": OpenAPIMediaType(schema=_inlined(json_type), example=example)}
    answered = OpenAPIResponse(
        description="As the caller expects it.",
        content={"application/json": OpenAPIMediaType(schema=_inlined(answer))},
    )
    query = [
        Parameter(
            name=name,
            param_in="query",
            description=meaning,
            schema=Schema(
                type=OpenAPIType.STRING, default=default, enum=list(values) if values else None
            ),
        )
        for name, default, values, meaning in parameters
    ]

    @dataclass
    class Documented(Operation):
        def __post_init__(self) -> None:
            self.request_body = RequestBody(content=content, required=True)
            self.parameters = [*(self.parameters or []), *query]
            if answer is not None:
                self.responses = {**(self.responses or {}), "200": answered}

    return Documented


class _Inline(Schema):
    """A schema that is JSON schema already."""

    def __init__(self, schema: dict[str, Any]) -> None:
        super().__init__()
        self._schema = schema

    def to_schema(self) -> dict[str, Any]:
        return self._schema


def _inlined(kind: type[Any]) -> Schema:
    schema = msgspec.json.schema(kind)
    definitions = schema.pop("$defs", {})
    return _Inline(_resolved(schema, definitions))


def _resolved(schema: Any, definitions: dict[str, Any]) -> Any:  # noqa: ANN401 - JSON
    """Return ``schema`` with references replaced by what they name; our types do not recurse."""
    if isinstance(schema, list):
        return [_resolved(part, definitions) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _resolved(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    return {key: _resolved(part, definitions) for key, part in schema.items()}
