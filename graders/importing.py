"""Reads grader JSON as people wrote it: corrects known deviations, finds all faults at once.

Tolerated deviations (spec §9.4) become warnings, never silence. What remains wrong becomes errors
with JSON pointers into the document *as it was posted* and messages in OpenAI's wording. Unknown
keys are kept in the document and reported; they change nothing.
"""

from __future__ import annotations

import re
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import msgspec

from graders import schema
from graders.errors import Finding
from graders.findings import Findings
from graders.sample import JsonValue
from graders.wording import dotted, escape, from_validation

# Ours, to bound what one definition may start and how long its findings may become.
MAX_GRADERS = 100  # of one multi
MAX_KEY_CHARS = 100  # of a sub-grader's name
MAX_NESTING = 100  # objects and arrays within each other

IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_RENAMED_SAMPLING_PARAMS = {
    "max_completion_tokens": "max_completions_tokens",
    "max_tokens": "max_completions_tokens",
}
_STAND_IN_GRADER = schema.StringCheck(operation="eq", input="", reference="")


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """What reading a definition gave.

    Attributes:
        document: The posted JSON with the tolerated deviations put right; unknown keys kept.
        grader: The typed grader; None when even its type is unknown. Where ``findings`` holds an
            error, harmless stand-ins fill the faulty places, so that the rest can be checked too.
        findings: Errors and warnings.
        pointers: Where each part of a ``multi`` stands in the posted document, by key.
    """

    document: dict[str, Any]
    grader: schema.Grader | None
    findings: tuple[Finding, ...]
    pointers: dict[str, str] = {}


def read(raw: JsonValue) -> Reading:
    """Return ``raw`` as a typed grader together with everything that is wrong or odd about it."""
    reader = _Reader()
    document: dict[str, Any] = {}
    grader: schema.Grader | None = None
    if nests_too_deeply(raw):
        message = f"The grader nests deeper than {MAX_NESTING} objects and arrays."
        reader.findings.error("", message, "nested_too_deeply")
    else:
        document, grader = reader.grader(raw, "", nested=False)
    return Reading(
        document=document,
        grader=grader,
        findings=tuple(reader.findings.all),
        pointers=reader.pointers,
    )


def nests_too_deeply(raw: JsonValue) -> bool:
    """Say whether objects and arrays in ``raw`` nest deeper than `MAX_NESTING`; never recurses."""
    level = [raw]
    for _ in range(MAX_NESTING + 1):
        containers = [node for node in level if isinstance(node, dict | list)]
        if not containers:
            return False
        level = [
            child
            for node in containers
            for child in (node.values() if isinstance(node, dict) else node)
        ]
    return True


class _Reader:
    """One pass over one definition; collects findings instead of stopping."""

    def __init__(self) -> None:
        self.findings = Findings()
        self.pointers: dict[str, str] = {}
        self._spelled: dict[str, str] = {}  # pointer → pointer in the posted document

    def grader(
        self, raw: JsonValue, pointer: str, *, nested: bool
    ) -> tuple[dict[str, Any], schema.Grader | None]:
        """Return the corrected document and the typed grader at ``pointer``."""
        if not isinstance(raw, dict):
            self.findings.wrong_type(pointer, "an object", raw)
            return {}, None
        document = dict(raw)
        kind = self._type(document, pointer, nested=nested)
        if kind is None:
            return document, None
        self._put_right(kind, document, pointer)
        if kind is schema.Multi:
            return self._multi(document, pointer)
        return document, kind(**self._values(kind, document, pointer))

    def _type(
        self, document: dict[str, Any], pointer: str, *, nested: bool
    ) -> type[schema.Grader] | None:
        place = f"{pointer}/type"
        value = document.get("type")
        if "type" not in document:
            self.findings.missing(place)
        elif not isinstance(value, str):
            self.findings.wrong_type(place, "a string", value)
        elif nested and value == "multi":
            self.findings.invalid(place, "a multi grader cannot hold another multi grader.")
        elif value not in schema.TYPES:
            allowed = [name for name in schema.TYPES if not (nested and name == "multi")]
            self.findings.choice(place, value, allowed)
        else:
            return schema.TYPES[value]
        return None

    def _put_right(self, kind: type[schema.Grader], document: dict[str, Any], pointer: str) -> None:
        """Correct the deviations of one grader that keep their meaning, in its own ``document``."""
        warn = self.findings.warning
        if "name" not in document:
            message = "name is missing; a stored definition needs one."
            warn(f"{pointer}/name", message, "missing_name")
        if kind is schema.StringCheck and document.get("operation") == "neq":
            document["operation"] = "ne"
            warn(f"{pointer}/operation", "'neq' is read as 'ne'.", "renamed_value")
        if kind not in (schema.ScoreModel, schema.LabelModel):
            return
        params = document.get("sampling_params")
        if isinstance(params, dict):
            place = f"{pointer}/sampling_params"
            document["sampling_params"] = self._sampling_params(params, place)
        messages = document.get("input")
        for index, message in enumerate(messages if isinstance(messages, list) else ()):
            if isinstance(message, dict) and isinstance(message.get("content"), dict):
                place = f"{pointer}/input/{index}/content"
                warn(place, "one content object is read as an array of one.", "single_content")

    def _sampling_params(self, params: dict[str, Any], pointer: str) -> dict[str, Any]:
        renamed: dict[str, Any] = {}
        for key, value in params.items():
            target = _RENAMED_SAMPLING_PARAMS.get(key, key)
            place = f"{pointer}/{key}"
            if target != key and (target in params or target in renamed):
                message = f"'{key}' is ignored beside another token limit."
                self.findings.warning(place, message, "ignored_parameter")
                continue
            if target != key:
                message = f"'{key}' is read as '{target}'."
                self.findings.warning(place, message, "renamed_parameter")
                self._spelled[f"{pointer}/{target}"] = place
            renamed[target] = value
        return renamed

    def _multi(self, document: dict[str, Any], pointer: str) -> tuple[dict[str, Any], schema.Multi]:
        place = f"{pointer}/graders"
        values = self._values(schema.Multi, document, pointer, skip="graders")
        children: dict[str, tuple[JsonValue, str]] = {}
        if "graders" in document:
            children = self._children(document["graders"], place)
        else:
            self.findings.missing(place)
        documents: dict[str, Any] = {}
        graders: dict[str, Any] = {}
        for key, (child, child_pointer) in children.items():
            documents[key], grader = self.grader(child, child_pointer, nested=True)
            graders[key] = grader or _STAND_IN_GRADER
            self.pointers[key] = child_pointer
        if graders:
            document["graders"] = documents
        return document, schema.Multi(graders=graders, **values)

    def _children(self, raw: JsonValue, pointer: str) -> dict[str, tuple[JsonValue, str]]:
        """Return key → (child, its pointer in the posted document)."""
        if isinstance(raw, list):
            return self._listed(raw, pointer)
        if not isinstance(raw, dict):
            self.findings.wrong_type(pointer, "an object", raw)
            return {}
        if isinstance(raw.get("type"), str):
            # A single grader in place of the map: the published schema's mistake (spec §1.3).
            fields = (key for key in ("input", *raw) if isinstance(raw.get(key), str | list))
            key = next(fields)
            hint = "graders is a map from variable name to grader, not one grader."
            self.findings.wrong_type(f"{pointer}/{escape(key)}", "an object", raw[key], hint=hint)
            return {}
        if not raw or len(raw) > MAX_GRADERS:
            self.findings.invalid(
                pointer, f"expected 1 to {MAX_GRADERS} graders, but got {len(raw)}."
            )
            return {}
        if any(len(key) > MAX_KEY_CHARS for key in raw):
            self.findings.invalid(pointer, f"a key has at most {MAX_KEY_CHARS} characters.")
            return {}
        for key in raw:
            if not IDENTIFIER.match(key):
                message = f"'{key}' is no identifier, so calculate_output cannot name it."
                self.findings.warning(f"{pointer}/{escape(key)}", message, "unreachable_grader")
        return {key: (child, f"{pointer}/{escape(key)}") for key, child in raw.items()}

    def _listed(self, raw: list[JsonValue], pointer: str) -> dict[str, tuple[JsonValue, str]]:
        names = [child.get("name") if isinstance(child, dict) else None for child in raw]
        usable = [
            name
            for name in names
            if isinstance(name, str) and len(name) <= MAX_KEY_CHARS and IDENTIFIER.match(name)
        ]
        if not 0 < len(raw) == len(set(usable)) <= MAX_GRADERS:
            hint = (
                "A list is accepted only when every element has a unique name that is an "
                f"identifier, and with at most {MAX_GRADERS} elements."
            )
            self.findings.wrong_type(pointer, "an object", raw, hint=hint)
            return {}
        message = "a list of graders is read as a map from name to grader."
        self.findings.warning(pointer, message, "list_of_graders")
        return {
            name: (child, f"{pointer}/{index}")
            for index, (name, child) in enumerate(zip(usable, raw, strict=True))
        }

    def _values(
        self, kind: type[msgspec.Struct], document: dict[str, Any], pointer: str, *, skip: str = ""
    ) -> dict[str, Any]:
        """Return the converted fields of one object, with stand-ins for those that are wrong."""
        fields = {field.name: field for field in msgspec.structs.fields(kind)}
        values: dict[str, Any] = {}
        for name, field in fields.items():
            place = self._spelled.get(f"{pointer}/{name}", f"{pointer}/{name}")
            if name == skip or (not field.required and document.get(name) is None):
                continue
            if name in document:
                known = self.findings.errors
                value = self._converted(document[name], field.type, place)
                if field.required or self.findings.errors == known:
                    values[name] = value
            else:
                self.findings.missing(place)
                values[name] = _stand_in(field.type)
        for key in document:
            if key not in fields and key != "type":
                place = f"{pointer}/{escape(key)}"
                message = f"Unknown parameter: '{dotted(place)}' is kept and not used."
                self.findings.warning(place, message, "unknown_parameter")
        return values

    def _converted(self, value: JsonValue, annotation: Any, pointer: str) -> Any:  # noqa: ANN401 - a type form in, its value out
        """Return ``value`` as ``annotation`` asks; a stand-in after recording every reason."""
        options = _options(annotation)
        if isinstance(value, dict) and any(_is_struct(option) for option in options):
            return self._object(value, annotation, pointer)
        for option in options:
            if isinstance(value, list) and _is_open_tuple(option):
                element = get_args(option)[0]
                parts = enumerate(value)
                return tuple(self._converted(p, element, f"{pointer}/{i}") for i, p in parts)
            if isinstance(value, dict) and get_origin(option) is dict:
                element = get_args(option)[1]
                return {
                    key: self._converted(part, element, f"{pointer}/{escape(key)}")
                    for key, part in value.items()
                }
        allowed = [name for option in options for name in _literals(option)]
        if allowed and isinstance(value, str) and value not in allowed:
            self.findings.choice(pointer, value, allowed)
            return _stand_in(annotation)
        try:
            return msgspec.convert(value, annotation)
        except msgspec.ValidationError as error:
            self.findings.add(from_validation(error, pointer))
            return _stand_in(annotation)

    def _object(self, value: dict[str, Any], annotation: Any, pointer: str) -> Any:  # noqa: ANN401 - a type form in, its value out
        """Return the Struct that ``value`` is, chosen by its ``type`` where there are several."""
        kinds = [option for option in _options(annotation) if _is_struct(option)]
        tagged = {kind.__struct_config__.tag: kind for kind in kinds}
        if None in tagged:
            return kinds[0](**self._values(kinds[0], value, pointer))
        place = f"{pointer}/type"
        name = value.get("type")
        if "type" not in value:
            self.findings.missing(place)
        elif not isinstance(name, str):
            self.findings.wrong_type(place, "a string", name)
        elif name not in tagged:
            self.findings.choice(place, name, list(tagged))
        else:
            return tagged[name](**self._values(tagged[name], value, pointer))
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
    if first is schema.AudioData:
        return schema.AudioData(data="", format="wav")
    return "" if first is str else ()


def _literals(option: Any) -> tuple[str, ...]:  # noqa: ANN401 - a type form
    return get_args(option) if get_origin(option) is Literal else ()


def _is_struct(option: Any) -> bool:  # noqa: ANN401 - a type form
    return isinstance(option, type) and issubclass(option, msgspec.Struct)


def _is_open_tuple(option: Any) -> bool:  # noqa: ANN401 - a type form
    return get_origin(option) is tuple and get_args(option)[-1] is Ellipsis
