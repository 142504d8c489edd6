"""What Litestar cannot find out by itself for the API description."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
from litestar.openapi.spec import OpenAPIMediaType, OpenAPIType, Operation, RequestBody, Schema
from litestar.plugins import OpenAPISchemaPlugin
from litestar.typing import FieldDefinition


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


def takes(json_type: type[Any], line_media_type: str, line_type: type[Any]) -> type[Operation]:
    """Return an operation whose body is ``json_type``, or lines of ``line_type``."""
    content = {
        "application/json": OpenAPIMediaType(schema=_inlined(json_type)),
        line_media_type: OpenAPIMediaType(schema=_inlined(line_type)),
    }

    @dataclass
    class Documented(Operation):
        def __post_init__(self) -> None:
            self.request_body = RequestBody(content=content, required=True)

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
