"""Reward by rank: 1.0 for the right gene in first place, 0.7 in second, 0.7 of it a place on."""

from typing import Any

DECAY = 0.7  # of the reward that each place further down leaves


def grade(sample: dict[str, Any], item: dict[str, Any]) -> float:
    """Return the reward of the first right gene; 0.0 when it is absent or nothing is ranked."""
    accepted = {symbol(item.get("gene")), *map(symbol, listed(item.get("aliases")))} - {""}
    answer = sample.get("output_json")
    ranked = listed(answer.get("genes")) if isinstance(answer, dict) else []
    for places_above, gene in enumerate(ranked):
        if symbol(gene) in accepted:
            return DECAY**places_above
    return 0.0


def listed(value: object) -> list[Any]:
    """Return ``value`` if it is a list, else an empty one."""
    return value if isinstance(value, list) else []


def symbol(value: object) -> str:
    """Return a gene symbol in capitals; empty for anything but text."""
    return value.strip().upper() if isinstance(value, str) else ""
