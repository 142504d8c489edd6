"""F1 over sets of ICD-10 codes, with half credit for another code of the right category."""

import re
from collections import Counter
from typing import Any

CATEGORY_CREDIT = 0.5  # of an exact match
CATEGORY_CHARS = 3  # E11 of E11.65
CODE = re.compile(r"[A-Z][0-9][0-9A-Z](\.?[0-9A-Z]{1,4})?", re.ASCII)


def grade(sample: dict[str, Any], item: dict[str, Any]) -> float:
    """Return the F1; 1.0 when nothing is to be coded and an empty list says so."""
    gold = listed(item.get("codes"))
    answer = sample.get("output_json")
    given = listed(answer.get("codes")) if isinstance(answer, dict) else None
    if gold is None or given is None:
        return 0.0
    right, coded = set(map(normalised, gold)), set(map(normalised, given))
    if not right and not coded:
        return 1.0
    exact = (right & coded) - {""}
    shared = categories(right - exact) & categories(coded - exact)
    matched = len(exact) + CATEGORY_CREDIT * shared.total()
    return 2 * matched / (len(right) + len(coded))


def categories(codes: set[str]) -> Counter[str]:
    """Return how many of ``codes`` each category has."""
    return Counter(code[:CATEGORY_CHARS] for code in codes if code)


def normalised(code: object) -> str:
    """Return a code in capitals and without its dot; all that is no code is empty."""
    text = code.strip().upper() if isinstance(code, str) else ""
    return text.replace(".", "") if CODE.fullmatch(text) else ""


def listed(value: object) -> list[Any] | None:
    """Return ``value`` if it is a list."""
    return value if isinstance(value, list) else None
