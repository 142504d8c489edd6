"""Whether the first line of a decision is the right label."""

from typing import Any


def grade(sample: dict[str, Any], item: dict[str, Any]) -> float:
    """Return 1.0 or 0.0; no label equals none, not even another empty one."""
    first_line, _, _ = (sample.get("output_text") or "").strip().partition("\n")
    label = item.get("label")
    wanted = label.strip().lower() if isinstance(label, str) else ""
    return float(first_line.strip().lower() == wanted != "")
