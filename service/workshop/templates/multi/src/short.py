"""1.0 up to 280 characters, falling to 0.0 at 560."""

from typing import Any

LIMIT = 280  # characters


def grade(sample: dict[str, Any], item: dict[str, Any]) -> float:
    """Return the share of the reward that the length leaves."""
    del item
    length = len(sample.get("output_text") or "")
    return max(0.0, min(1.0, 2 - length / LIMIT))
