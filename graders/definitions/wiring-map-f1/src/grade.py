"""F1 over connections of a wiring map, without regard to direction, every wire counted."""

from collections import Counter
from typing import Any

Wire = tuple[str, ...]
ENDS = 2  # of a wire


def grade(sample: dict[str, Any], item: dict[str, Any]) -> float:
    """Return the F1; 1.0 when nothing is to be connected and an empty list says so."""
    answer = sample.get("output_json")
    gold = wires(item.get("connections"))
    given = wires(answer.get("connections") if isinstance(answer, dict) else None)
    if gold is None or given is None:
        return 0.0
    if not gold and not given:
        return 1.0
    matched = gold & given
    matched.pop((), None)
    return 2 * matched.total() / (gold.total() + given.total())


def wires(value: object) -> Counter[Wire] | None:
    """Return how often each wire is listed; None for no list."""
    return Counter(map(wire, value)) if isinstance(value, list) else None


def wire(entry: object) -> Wire:
    """Return the two ends of a wire in order of the alphabet; () for what is no wire."""
    if isinstance(entry, dict):
        entry = [entry.get("from"), entry.get("to")]
    ends = [end(each) for each in entry] if isinstance(entry, list) else []
    return tuple(sorted(ends)) if len(ends) == ENDS and all(ends) else ()


def end(value: object) -> str:
    """Return the name of an end in lower case and without white space; empty for no text."""
    return "".join(value.lower().split()) if isinstance(value, str) else ""
