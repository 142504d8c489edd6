"""Whether the first line of a decision is the right label."""

from typing import Any


def grade(sample: dict[str, Any], item: dict[str, Any]) -> float:
    """Return 1.0 or 0.0; no label equals none, not even another empty one."""
    text, label = sample.get("output_text"), item.get("label")
    if not isinstance(text, str) or not isinstance(label, str):
        return 0.0
    first_line, _, _ = text.strip().partition("\n")
    wanted = label.strip().lower()
    return float(first_line.strip().lower() == wanted != "")
