"""Reads grader JSON as people wrote it: puts known deviations right and finds everything wrong at once.

Tolerated deviations (spec §9.4) become warnings, never silence. What remains wrong becomes errors with
JSON pointers into the document *as it was posted* and messages in OpenAI's wording. Unknown keys are
kept in the document and reported; they change nothing.
"""

from __future__ import annotations

import re
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import msgspec

from graders import schema
from graders.errors import Finding
from graders.sample import JsonValue
from graders.wording import choice_message, dotted, escape, from_validation, type_message

MAX_GRADERS = 100  # sub-graders of one multi: ours, to bound what one call may start

IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_RENAMED_SAMPLING_PARAMS = {
    "max_completion_tokens": "max_completions_tokens",
    "max_tokens": "max_completions_tokens",
}
_RECURSED = (schema.Message, schema.SamplingParams)  # objects of which every fault is reported
_STAND_IN_GRADER = schema.StringCheck(operation="eq", input="", reference="")


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """What reading a definition gave.

    Attributes:
        document: The posted JSON with the tolerated deviations put right; unknown keys kept.
        grader: The typed grader; None when even its type is unknown. Where ``findings`` holds an error,
            harmless stand-ins fill the faulty places, so that everything else can be checked too.
        findings: Errors and warnings.
    """

    document: dict[str, Any]
    grader: schema.Grader | None
    findings: tuple[Finding, ...]


def read(raw: JsonValue) -> Reading:
    """Return ``raw`` as a typed grader together with everything that is wrong or odd about it."""
    reader = _Reader()
    document, grader = reader.grader(raw, "", nested=False)
    return Reading(document=document, grader=grader, findings=tuple(reader.findings))


class _Reader:
    """One pass over one definition; collects findings instead of stopping."""

    def __init__(self) -> None:
        self.findings: list[Finding] = []

    def _error(self, pointer: str, message: str, code: str) -> None:
        self.findings.append(Finding(pointer=pointer, message=message, code=code))

    def _warning(self, pointer: str, message: str, code: str) -> None:
        self.findings.append(
            Finding(pointer=pointer, message=message, code=code, severity="warning")
        )

    def grader(
        self, raw: JsonValue, pointer: str, *, nested: bool
    ) -> tuple[dict[str, Any], schema.Grader | None]:
        """Return the corrected document and the typed grader at ``pointer``."""
        if not isinstance(raw, dict):
            self._error(pointer, type_message(pointer, "an object", raw), "invalid_type")
            return {}, None
        document = dict(raw)
        kind = self._type(document, pointer, nested=nested)
        if kind is None:
            return document, None
        self._put_right(document, pointer)
        if kind is schema.Multi:
            return self._multi(document, pointer)
        return document, kind(**self._values(kind, document, pointer))

    def _type(
        self, document: dict[str, Any], pointer: str, *, nested: bool
    ) -> type[schema.Grader] | None:
        place = f"{pointer}/type"
        value = document.get("type")
        allowed = [name for name in schema.TYPES if not (nested and name == "multi")]
        if "type" not in document:
            self._error(
                place,
                f"Missing required parameter: '{dotted(place)}'.",
                "missing_required_parameter",
            )
        elif not isinstance(value, str):
            self._error(place, type_message(place, "a string", value), "invalid_type")
        elif nested and value == "multi":
            message = f"Invalid value for '{dotted(place)}': a multi grader cannot hold another multi grader."
            self._error(place, message, "invalid_value")
        elif value not in schema.TYPES:
            self._error(place, choice_message(place, value, allowed), "invalid_value")
        else:
            return schema.TYPES[value]
        return None

    def _put_right(self, document: dict[str, Any], pointer: str) -> None:
        if "name" not in document:
            self._warning(
                f"{pointer}/name", "name is missing; a stored definition needs one.", "missing_name"
            )
        if document.get("operation") == "neq":
            document["operation"] = "ne"
            self._warning(f"{pointer}/operation", "'neq' is read as 'ne'.", "renamed_value")
        params = document.get("sampling_params")
        if isinstance(params, dict):
            document["sampling_params"] = self._sampling_params(
                params, f"{pointer}/sampling_params"
            )
        if isinstance(document.get("input"), list):
            self._note_single_parts(document["input"], f"{pointer}/input")

    def _sampling_params(self, params: dict[str, Any], pointer: str) -> dict[str, Any]:
        renamed: dict[str, Any] = {}
        for key, value in params.items():
            target = _RENAMED_SAMPLING_PARAMS.get(key, key)
            if target != key:
                if target in params or target in renamed:
                    message = f"'{key}' is ignored beside another token limit."
                    self._warning(f"{pointer}/{key}", message, "ignored_parameter")
                    continue
                self._warning(
                    f"{pointer}/{key}", f"'{key}' is read as '{target}'.", "renamed_parameter"
                )
            renamed[target] = value
        return renamed

    def _note_single_parts(self, messages: list[Any], pointer: str) -> None:
        for index, message in enumerate(messages):
            if isinstance(message, dict) and isinstance(message.get("content"), dict):
                place = f"{pointer}/{index}/content"
                self._warning(
                    place, "one content object is read as an array of one.", "single_content"
                )

    def _multi(self, document: dict[str, Any], pointer: str) -> tuple[dict[str, Any], schema.Multi]:
        place = f"{pointer}/graders"
        values = self._values(schema.Multi, document, pointer, skip="graders")
        documents: dict[str, Any] = {}
        graders: dict[str, Any] = {}
        for key, (child, child_pointer) in self._children(document.get("graders"), place).items():
            documents[key], grader = self.grader(child, child_pointer, nested=True)
            graders[key] = grader or _STAND_IN_GRADER
        if "graders" not in document:
            message = f"Missing required parameter: '{dotted(place)}'."
            self._error(place, message, "missing_required_parameter")
        elif document["graders"] == {}:
            message = f"Invalid value for '{dotted(place)}': expected at least one grader."
            self._error(place, message, "invalid_value")
        if graders:
            document["graders"] = documents
        return document, schema.Multi(graders=graders, **values)

    def _children(self, raw: JsonValue, pointer: str) -> dict[str, tuple[Any, str]]:
        """Return key → (child, its pointer in the posted document)."""
        if isinstance(raw, list):
            return self._listed(raw, pointer)
        if not isinstance(raw, dict):
            if raw is not None:
                self._error(pointer, type_message(pointer, "an object", raw), "invalid_type")
            return {}
        if isinstance(raw.get("type"), str):
            # a single grader in place of the map: the published schema's mistake (spec §1.3)
            key = next(
                (key for key in ("input", *raw) if isinstance(raw.get(key), str | list)), "type"
            )
            message = type_message(f"{pointer}/{key}", "an object", raw[key])
            hint = "graders is a map from variable name to grader, not one grader."
            self._error(f"{pointer}/{key}", f"{message} {hint}", "invalid_type")
            return {}
        if len(raw) > MAX_GRADERS:
            message = f"Invalid value for '{dotted(pointer)}': at most {MAX_GRADERS} graders, got {len(raw)}."
            self._error(pointer, message, "invalid_value")
            return {}
        for key in raw:
            if not IDENTIFIER.match(key):
                message = f"'{key}' is no identifier, so calculate_output cannot name it."
                self._warning(f"{pointer}/{escape(key)}", message, "unreachable_grader")
        return {key: (child, f"{pointer}/{escape(key)}") for key, child in raw.items()}

    def _listed(self, raw: list[Any], pointer: str) -> dict[str, tuple[Any, str]]:
        names = [child.get("name") if isinstance(child, dict) else None for child in raw]
        usable = all(isinstance(name, str) and IDENTIFIER.match(name) for name in names)
        if not raw or not usable or len(set(names)) != len(names) or len(raw) > MAX_GRADERS:
            message = type_message(pointer, "an object", raw)
            hint = "A list is accepted only when every element has a unique name that is an identifier."
            self._error(pointer, f"{message} {hint}", "invalid_type")
            return {}
        self._warning(
            pointer, "a list of graders is read as a map from name to grader.", "list_of_graders"
        )
        return {
            str(name): (child, f"{pointer}/{index}")
            for index, (name, child) in enumerate(zip(names, raw, strict=True))
        }

    def _values(
        self, kind: type[msgspec.Struct], document: dict[str, Any], pointer: str, *, skip: str = ""
    ) -> dict[str, Any]:
        """Return the converted fields of one object, with stand-ins for those that are wrong."""
        fields = {f.name: f for f in msgspec.structs.fields(kind)}
        values: dict[str, Any] = {}
        for name, field in fields.items():
            place = f"{pointer}/{name}"
            if name == skip or (not field.required and document.get(name) is None):
                continue
            if name in document:
                known = len(self.findings)
                value = self._converted(document[name], field.type, place)
                if field.required or not self._errors_since(known):
                    values[name] = value
            else:
                message = f"Missing required parameter: '{dotted(place)}'."
                self._error(place, message, "missing_required_parameter")
                values[name] = _stand_in(field.type)
        for key in document:
            if key not in fields and key != "type":
                place = f"{pointer}/{escape(key)}"
                message = f"Unknown parameter: '{dotted(place)}' is kept and not used."
                self._warning(place, message, "unknown_parameter")
        return values

    def _errors_since(self, known: int) -> bool:
        return any(finding.severity == "error" for finding in self.findings[known:])

    def _converted(self, value: JsonValue, annotation: Any, pointer: str) -> Any:  # noqa: ANN401 - a type form in, its value out
        """Return ``value`` as ``annotation`` asks; a stand-in after recording every reason why not."""
        for option in _options(annotation):
            if isinstance(value, list) and _is_open_tuple(option):
                element = get_args(option)[0]
                return tuple(
                    self._converted(part, element, f"{pointer}/{index}")
                    for index, part in enumerate(value)
                )
            if isinstance(value, dict) and option in _RECURSED:
                return option(**self._values(option, value, pointer))
        try:
            return msgspec.convert(value, annotation)
        except msgspec.ValidationError as error:
            self.findings.append(from_validation(error, pointer, annotation))
            return _stand_in(annotation)


def _options(annotation: Any) -> tuple[Any, ...]:  # noqa: ANN401 - a type form
    return get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)


def _stand_in(annotation: Any) -> Any:  # noqa: ANN401 - a type form in, a value of it out
    """Return a harmless value of a required field's type."""
    first = _options(annotation)[0]
    if get_origin(first) is Literal:
        return get_args(first)[0]
    if first is schema.Message:
        return schema.Message(role="user", content="")
    return {str: "", float: 0.0}.get(first, ())


def _is_open_tuple(annotation: Any) -> bool:  # noqa: ANN401 - a type form
    return get_origin(annotation) is tuple and get_args(annotation)[-1] is Ellipsis
