"""Whether a JSON value satisfies a response schema, and the JSON of a reply that hides it in prose.

Only the keywords of strict response schemas are known: ``type``, ``properties``, ``required``,
``additionalProperties: false``, ``items``, ``enum``. A schema with any other constraint would have
to be taught here first; an unknown ``type`` satisfies nothing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from json import JSONDecoder
from math import isfinite
from typing import Any

import msgspec

_FENCE = re.compile(r"```(?:json|JSON)?[ \t]*\r?\n(.*?)\r?\n?[ \t]*```", re.DOTALL)
_PAIRS = JSONDecoder(object_pairs_hook=list)
_THINK_END = "</think>"
_CLOSED = re.compile(r"\s*(?:```)?\s*")
_SCALARS = {"string": str, "boolean": bool, "null": type(None)}


def conforms(value: Any, schema: dict[str, Any]) -> bool:  # noqa: ANN401 - decoded JSON
    """Return whether ``value`` satisfies ``schema``."""
    kind = schema.get("type")
    if isinstance(kind, list):
        return any(conforms(value, schema | {"type": one}) for one in kind)
    if "enum" in schema and not _listed(value, schema["enum"]):
        return False
    match kind:
        case "object":
            return isinstance(value, dict) and _object(value, schema)
        case "array":
            items = schema.get("items", {})
            return isinstance(value, list) and all(conforms(item, items) for item in value)
        case "number" | "integer":
            return _number(value, kind)
        case None:
            return True
        case _:
            return kind in _SCALARS and isinstance(value, _SCALARS[kind])


def text_conforms(text: str, schema: dict[str, Any]) -> bool:
    """Return whether ``text`` is one JSON value that satisfies ``schema``."""
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeError):
        return False
    return conforms(value, schema)


def settles(text: str, schema: dict[str, Any]) -> bool:
    """Return whether ``text`` is one JSON object with a ``result`` as ``schema`` asks for it.

    That is all a score is read from (`graders.judging.result_of`), so what is scored is also kept;
    but not an object with two of them, of which the last one is read.

    Args:
        text: The whole reply.
        schema: Schema of the reply, with ``result`` among its properties.
    """
    try:
        value = msgspec.json.decode(text)
        names = [name for name, _ in _PAIRS.decode(text)] if isinstance(value, dict) else []
    except (ValueError, RecursionError):  # what msgspec and json raise are kinds of ValueError
        return False
    return names.count("result") == 1 and conforms(
        value["result"], schema.get("properties", {}).get("result", {})
    )


def only_json(text: str, schema: dict[str, Any], *, prompt: Sequence[str] = ()) -> str | None:
    """Return the JSON object in ``text`` that is the verdict.

    A judge without structured output may put its verdict into a fence, write words before it, or
    think aloud first. It may also quote the sample, and a sample may hold a forged verdict. So
    unless the whole text is the object, the object must end the text, be the only one that
    satisfies the schema, and must not stand in the prompt word for word.

    Args:
        text: What the judge wrote.
        schema: What the verdict satisfies.
        prompt: Texts the judge was shown.

    Returns:
        The object's own characters, or None when no object is beyond doubt.
    """
    text = text.strip()
    if text.startswith("<think>") and _THINK_END in text:
        text = text.rpartition(_THINK_END)[2].strip()
    if text_conforms(text, schema):
        return text
    fenced = _FENCE.fullmatch(text)
    if fenced is not None and text_conforms(fenced[1], schema):
        return fenced[1].strip()
    fitting = [source for value, source in _objects(text) if conforms(value, schema)]
    if len(fitting) != 1 or not _CLOSED.fullmatch(text.rpartition(fitting[0])[2]):
        return None
    return None if any(fitting[0] in shown for shown in prompt) else fitting[0]


def _objects(text: str) -> list[tuple[Any, str]]:
    """Return the outermost JSON objects in ``text`` with their characters."""
    decoder = JSONDecoder()
    found = []
    start = text.find("{")
    # Every failed start costs a scan; prose with thousands of braces is not a verdict.
    for _ in range(1_000):
        if start < 0:
            break
        try:
            value, end = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            start = text.find("{", start + 1)
            continue
        found.append((value, text[start:end]))
        start = text.find("{", end)
    return found


def _object(value: dict[str, Any], schema: dict[str, Any]) -> bool:
    properties: dict[str, Any] = schema.get("properties", {})
    if any(name not in value for name in schema.get("required", ())):
        return False
    if schema.get("additionalProperties") is False and any(n not in properties for n in value):
        return False
    return all(conforms(value[name], rule) for name, rule in properties.items() if name in value)


def _listed(value: Any, allowed: list[Any]) -> bool:  # noqa: ANN401 - decoded JSON
    # True == 1 in Python but not in JSON.
    return any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in allowed)


def _number(value: Any, kind: str) -> bool:  # noqa: ANN401 - decoded JSON
    if isinstance(value, bool) or not isinstance(value, int if kind == "integer" else (int, float)):
        return False
    return isinstance(value, int) or isfinite(value)
