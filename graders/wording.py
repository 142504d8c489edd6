"""OpenAI's wording for what is wrong in a definition, and the names of places in it.

A place is a JSON pointer (RFC 6901) on native routes and a dotted ``param`` on OpenAI-compatible
ones. Every message is bounded, whatever the document holds.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from graders.errors import Finding
from graders.sample import JsonValue, json_name

_MAX_SHOWN_CHARS = 100  # of a value in a message
_MAX_PLACE_CHARS = 300  # of a place in a message
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
    r"Expected `(?P<expected>[^`]+)`(?: of length (?P<length>\d+))?, got `?(?P<got>[^`]+?)`?\Z"
)
_NAMED_TYPE = re.compile(r"`([^`]+)`")
_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d+)\]")


def escape(key: str) -> str:
    """Return ``key`` as one step of a JSON pointer (RFC 6901)."""
    return key.replace("~", "~0").replace("/", "~1")


def placed(file: object, pointer: str) -> str:
    """Return a file and the place in it; the whole file is its name alone."""
    return f"{file}#{pointer}" if pointer else str(file)


def shortened(text: str) -> str:
    """Return ``text``, cut after its first 100 characters."""
    return text if len(text) <= _MAX_SHOWN_CHARS else f"{text[:_MAX_SHOWN_CHARS]}…"


def dotted(pointer: str) -> str:
    """Return a JSON pointer as OpenAI's ``param``: ``/graders/a/input`` is ``graders.a.input``."""
    text = ""
    for step in pointer.split("/")[1:]:
        key = step.replace("~1", "/").replace("~0", "~")
        text += f"[{key}]" if key.isdecimal() else f".{key}" if text else key
    if len(text) > _MAX_PLACE_CHARS:
        return f"{text[:_MAX_PLACE_CHARS]}…"
    return text or "grader"


def type_message(pointer: str, expected: str, got: JsonValue) -> str:
    """Return what to say of a value of the wrong JSON type."""
    name = json_name(got)
    return f"Invalid type for '{dotted(pointer)}': expected {expected}, but got {name} instead."


def choice_message(pointer: str, got: str, allowed: Sequence[str]) -> str:
    """Return what to say of a value that is none of ``allowed``."""
    quoted = [f"'{name}'" for name in allowed]
    place, got = dotted(pointer), shortened(got)
    return f"Invalid value for '{place}': '{got}'. Supported values are: {_listed(quoted)}."


def _listed(words: list[str]) -> str:
    """Return an English enumeration of one word or more."""
    if len(words) <= 2:  # noqa: PLR2004 - no comma between two
        return " and ".join(words)
    return f"{', '.join(words[:-1])}, and {words[-1]}"


def from_validation(error: msgspec.ValidationError, pointer: str) -> Finding:
    """Return msgspec's message about the value at ``pointer`` as a finding in OpenAI's wording."""
    problem, _, path = str(error).partition(" - at `$")
    place = pointer + "".join(f"/{name or index}" for name, index in _STEP.findall(path))
    expected = _EXPECTED.match(problem)
    if expected is None:
        problem = _NAMED_TYPE.sub(lambda match: _JSON_NAMES.get(match[1], match[1]), problem)
        problem = shortened(f"{problem[:1].lower()}{problem[1:]}")
        message = f"Invalid value for '{dotted(place)}': {problem}."
        return Finding(pointer=place, message=message, code="invalid_value")
    names = [_JSON_NAMES.get(name.strip(), name) for name in expected["expected"].split("|")]
    wanted = " or ".join(name for name in names if name != "null")
    if expected["length"]:
        wanted += f" of length {expected['length']}"
    got = _JSON_NAMES.get(expected["got"], expected["got"])
    message = f"Invalid type for '{dotted(place)}': expected {wanted}, but got {got} instead."
    return Finding(pointer=place, message=message, code="invalid_type")
