"""How many points a rubric offers: the sum of those that can be gained."""

from typing import Any

MOST = 100  # points of a criterion


def grade(sample: dict[str, Any], item: dict[str, Any]) -> float:
    """Return the sum of positive ``points``; 0.0 for a rubric that is none."""
    del sample
    rubric = item.get("rubric")
    return sum((points(entry) for entry in rubric), 0.0) if isinstance(rubric, list) else 0.0


def points(entry: object) -> float:
    """Return what meeting a criterion gains; 0.0 for a fault, and for what is no criterion."""
    value = entry.get("points") if isinstance(entry, dict) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return 0.0
    return float(value) if 0 < value <= MOST else 0.0
