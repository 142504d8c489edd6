"""F1 over tool calls in any order, arguments compared as JSON; half credit for the function."""

import json
from collections import Counter
from typing import Any

FUNCTION_CREDIT = 0.5  # of a call that is right, for the right function with other arguments


def grade(sample: dict[str, Any], item: dict[str, Any]) -> float:
    """Return the F1; 1.0 when no call is expected and none is made."""
    gold, given = calls(item.get("tool_calls")), calls(sample.get("output_tools"))
    if gold is None or given is None:
        return 0.0
    if not gold and not given:
        return 1.0
    exact = gold & given
    for call in [call for call in exact if not all(call)]:
        del exact[call]
    shared = functions(gold - exact) & functions(given - exact)
    matched = exact.total() + FUNCTION_CREDIT * shared.total()
    return 2 * matched / (gold.total() + given.total())


def functions(found: Counter[tuple[str, str]]) -> Counter[str]:
    """Return how often each function is called."""
    return Counter(name for name, _ in found.elements() if name)


def calls(value: object) -> Counter[tuple[str, str]] | None:
    """Return how often each call is made; None for no list."""
    return Counter(map(call_of, value)) if isinstance(value, list) else None


def call_of(entry: object) -> tuple[str, str]:
    """Return function and arguments in one spelling; empty for what is missing or broken."""
    entry = entry if isinstance(entry, dict) else {}
    function = entry.get("function", entry)
    function = function if isinstance(function, dict) else {}
    name = function.get("name")
    return name if isinstance(name, str) else "", spelled(function.get("arguments"))


def spelled(arguments: object) -> str:
    """Return an object, or the text of one, as JSON with sorted keys; empty for anything else."""
    try:
        value = json.loads(arguments) if isinstance(arguments, str) else arguments
        return json.dumps(plain(value), sort_keys=True) if isinstance(value, dict) else ""
    except (ValueError, RecursionError):
        return ""


def plain(value: object) -> object:
    """Return ``value`` with whole floats as integers: in JSON, 1.0 and 1 are one number."""
    if isinstance(value, dict):
        return {key: plain(child) for key, child in value.items()}
    if isinstance(value, list):
        return [plain(child) for child in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
