"""JSON values with something else in them: the shape stays, the content does not."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

from graders.sample import JsonValue

MANY = 200  # times as long


def texts_in(value: JsonValue) -> Iterator[str]:
    """Yield the texts in ``value``, numbers included."""
    if isinstance(value, dict):
        for child in value.values():
            yield from texts_in(child)
    elif isinstance(value, list):
        for child in value:
            yield from texts_in(child)
    elif isinstance(value, str):
        yield value
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield json.dumps(value)


def with_leaves(value: JsonValue, change: Callable[[JsonValue], JsonValue]) -> JsonValue:
    """Return ``value`` with its leaves changed."""
    if isinstance(value, dict):
        return {key: with_leaves(child, change) for key, child in value.items()}
    if isinstance(value, list):
        return [with_leaves(child, change) for child in value]
    return change(value)


def with_long_lists(value: JsonValue) -> JsonValue:
    """Return ``value`` with its lists many times as long; None without a list in it."""
    if isinstance(value, dict):
        changed = {key: with_long_lists(child) for key, child in value.items()}
        if all(child is None for child in changed.values()):
            return None
        return {key: value[key] if child is None else child for key, child in changed.items()}
    return value * MANY if isinstance(value, list) and value else None


def with_lists_of(value: JsonValue, labels: list[str]) -> JsonValue:
    """Return ``value`` with every list of texts replaced by ``labels``."""
    if isinstance(value, dict):
        return {key: with_lists_of(child, labels) for key, child in value.items()}
    if isinstance(value, list):
        if all(isinstance(child, str) for child in value):
            return labels
        return [with_lists_of(child, labels) for child in value]
    return value


def parsed(text: str) -> JsonValue:
    """Return the JSON value in ``text``, or None."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def dumped(value: JsonValue) -> str:
    """Return ``value`` as JSON."""
    return json.dumps(value, ensure_ascii=False)
