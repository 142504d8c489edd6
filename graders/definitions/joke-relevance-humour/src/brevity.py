"""What the length of a joke leaves of its reward."""

from typing import Any

LIMIT = 270  # characters that cost nothing; twice as many leave nothing


def grade(sample: dict[str, Any], item: dict[str, Any]) -> float:
    """Return 1.0 up to the limit, in proportion less above it, and 0.0 for no joke at all."""
    del item
    text = sample.get("output_text")
    length = len(text.strip()) if isinstance(text, str) else 0
    return max(0.0, min(1.0, 2 - length / LIMIT)) if length else 0.0
