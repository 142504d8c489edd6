"""How nearly the customer's name is right."""

from typing import Any

from rapidfuzz import fuzz

ALIKE = 0.8  # similarity below which a name is another name


def grade(sample: dict[str, Any], item: dict[str, Any]) -> float:
    """Return the edit similarity of the names, 0.0 where it is low or a name is missing."""
    answer = sample.get("output_json")
    given = words(answer.get("customer") if isinstance(answer, dict) else None)
    wanted = words(item.get("customer"))
    similarity = fuzz.ratio(given, wanted) / 100
    return similarity if given and similarity >= ALIKE else 0.0


def words(value: object) -> str:
    """Return a text in lower case with single spaces; empty for anything else."""
    return " ".join(value.lower().split()) if isinstance(value, str) else ""
