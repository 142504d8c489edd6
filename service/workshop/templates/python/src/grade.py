"""How right a number is: 1.0 for the one asked for, 0.5 for one close to it, else 0.0."""

from typing import Any

CLOSE = 0.01  # of the right number


def grade(sample: dict[str, Any], item: dict[str, Any]) -> float:
    """Return the reward; whatever is not a JSON object with a number gets 0.0."""
    answer = sample.get("output_json")
    given = number(answer.get("answer")) if isinstance(answer, dict) else None
    right = number(item.get("answer"))
    if given is None or right is None:
        return 0.0
    if given == right:
        return 1.0
    return 0.5 if abs(given - right) <= abs(right) * CLOSE else 0.0


def number(value: object) -> float | None:
    """Return ``value`` if it is a number; booleans and strings of digits are none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value
