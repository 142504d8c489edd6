"""Whether an answer is the JSON object that was asked for: the other parts count only then."""

from typing import Any

KEYS = {"customer", "severity", "summary", "next_step"}
MOST = 600  # characters of a value


def grade(sample: dict[str, Any], item: dict[str, Any]) -> float:
    """Return 1.0 for an object with exactly these keys and a short text under each, else 0.0."""
    del item
    answer = sample.get("output_json")
    if not isinstance(answer, dict) or set(answer) != KEYS:
        return 0.0
    return float(all(is_short_text(value) for value in answer.values()))


def is_short_text(value: object) -> bool:
    """Say whether ``value`` is a text with something in it, and not too much."""
    return isinstance(value, str) and value.strip() != "" and len(value) <= MOST
