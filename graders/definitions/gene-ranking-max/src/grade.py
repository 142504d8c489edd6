"""Whether the right gene stands anywhere in the list."""

from typing import Any


def grade(sample: dict[str, Any], item: dict[str, Any]) -> float:
    """Return 1.0 or 0.0; whatever ranks nothing gets 0.0."""
    accepted = {symbol(item.get("gene")), *map(symbol, listed(item.get("aliases")))} - {""}
    answer = sample.get("output_json")
    ranked = listed(answer.get("genes")) if isinstance(answer, dict) else []
    return float(any(symbol(gene) in accepted for gene in ranked))


def listed(value: object) -> list[Any]:
    """Return ``value`` if it is a list, else an empty one."""
    return value if isinstance(value, list) else []


def symbol(value: object) -> str:
    """Return a gene symbol in capitals; empty for anything but text."""
    return value.strip().upper() if isinstance(value, str) else ""
