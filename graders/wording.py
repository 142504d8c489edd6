"""OpenAI's wording for what is wrong in a definition, and the names of places in it.

A place is a JSON pointer (RFC 6901) on native routes and a dotted ``param`` on OpenAI-compatible ones.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

import msgspec

from graders.errors import Finding
from graders.sample import JsonValue

if TYPE_CHECKING:
    from collections.abc import Sequence

_JSON_NAMES = {
    "str": "a string",
    "int": "an integer",
    "float": "a number",
    "bool": "a boolean",
    "null": "null",
    "array": "an array",
    "object": "an object",
}
_EXPECTED = re.compile(
    r"Expected `(?P<expected>.+?)`(?: of length (?P<length>.+?))?, got `?(?P<got>[^`]+?)`?\Z"
)
_PLACE = re.compile(r"\A(?P<problem>.*?)(?: - at `(?:key in )?(?P<path>\$.*)`)?\Z", re.DOTALL)
_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d+|\.\.\.)\]")


def escape(key: str) -> str:
    """Return ``key`` as one step of a JSON pointer (RFC 6901)."""
    return key.replace("~", "~0").replace("/", "~1")


def dotted(pointer: str) -> str:
    """Return a JSON pointer as OpenAI's ``param``: ``/graders/a/input`` is ``graders.a.input``."""
    steps = [step.replace("~1", "/").replace("~0", "~") for step in pointer.split("/")[1:]]
    text = ""
    for step in steps:
        text += f"[{step}]" if step.isdigit() else f".{step}" if text else step
    return text or "grader"


def type_message(pointer: str, expected: str, got: JsonValue) -> str:
    """Return what to say of a value of the wrong JSON type."""
    return f"Invalid type for '{dotted(pointer)}': expected {expected}, but got {_json_name(got)} instead."


def choice_message(pointer: str, got: str, allowed: Sequence[str]) -> str:
    """Return what to say of a value that is none of ``allowed``."""
    quoted = [f"'{name}'" for name in allowed]
    listed = f"{', '.join(quoted[:-1])}, and {quoted[-1]}" if len(quoted) > 1 else quoted[0]
    return f"Invalid value for '{dotted(pointer)}': '{got[:100]}'. Supported values are: {listed}."


def _json_name(value: JsonValue) -> str:
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "an array"
    return "null" if value is None else _JSON_NAMES.get(type(value).__name__, type(value).__name__)


def from_validation(
    error: msgspec.ValidationError,
    pointer: str,
    annotation: Any,  # noqa: ANN401 - a type form
) -> Finding:
    """Return msgspec's message as a finding in OpenAI's wording."""
    match = _PLACE.match(str(error))
    problem, path = (match["problem"], match["path"] or "$") if match else (str(error), "$")
    place = pointer
    for name, index in _STEP.findall(path):
        place += f"/{name or index}"
    if problem.startswith("Object missing required field"):
        missing = f"{place}/{problem.split('`')[1]}"
        return Finding(
            pointer=missing,
            message=f"Missing required parameter: '{dotted(missing)}'.",
            code="missing_required_parameter",
        )
    if problem.startswith("Invalid enum value"):
        allowed = _literals(annotation)
        got = problem.removeprefix("Invalid enum value ").strip("'")
        message = (
            choice_message(place, got, allowed)
            if place == pointer and allowed
            else f"Invalid value for '{dotted(place)}': {problem[0].lower()}{problem[1:]}."
        )
        return Finding(pointer=place, message=message, code="invalid_value")
    expected = _EXPECTED.match(problem)
    if expected is None:
        message = f"Invalid value for '{dotted(place)}': {problem[:1].lower()}{problem[1:]}."
        return Finding(pointer=place, message=message, code="invalid_value")
    names = [
        _JSON_NAMES.get(name.strip(), name.strip()) for name in expected["expected"].split("|")
    ]
    wanted = " or ".join(name for name in names if name != "null")
    if expected["length"]:
        wanted += f" of length {expected['length']}"
    got = _JSON_NAMES.get(expected["got"], expected["got"])
    message = f"Invalid type for '{dotted(place)}': expected {wanted}, but got {got} instead."
    return Finding(pointer=place, message=message, code="invalid_type")


def _literals(annotation: Any) -> list[str]:  # noqa: ANN401 - a type form
    if get_origin(annotation) is Literal:
        return [str(value) for value in get_args(annotation)]
    return [name for option in get_args(annotation) for name in _literals(option)]
