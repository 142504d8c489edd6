"""How near the severity is: right, one step off, or wrong."""

from typing import Any

SCALE = ("low", "medium", "high", "critical")
ONE_STEP_OFF = 0.5


def grade(sample: dict[str, Any], item: dict[str, Any]) -> float:
    """Return 1.0, 0.5 or 0.0; what is not on the scale is wrong."""
    answer = sample.get("output_json")
    given = step(answer.get("severity") if isinstance(answer, dict) else None)
    wanted = step(item.get("severity"))
    if given is None or wanted is None:
        return 0.0
    return {0: 1.0, 1: ONE_STEP_OFF}.get(abs(given - wanted), 0.0)


def step(value: object) -> int | None:
    """Return the place of ``value`` on the scale."""
    return SCALE.index(value) if value in SCALE else None
