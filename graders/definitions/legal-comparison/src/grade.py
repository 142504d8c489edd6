"""F1 over the differences found between two contracts: clause and kind exactly, wording nearly."""

import unicodedata
from typing import Any

from rapidfuzz import fuzz

CLAUSE = 0.4  # for a difference in the right clause
KIND = 0.2  # for its kind: added, removed or changed
WORDING = 0.4  # for what both contracts say there, times the similarity
ALIKE = 0.6  # similarity below which the wording is another one
MOST = 100  # differences of an answer
LONGEST = 5_000  # characters of a wording that are compared

Difference = dict[str, str]


def grade(sample: dict[str, Any], item: dict[str, Any]) -> float:
    """Return the F1; 1.0 when nothing differs and an empty list says so."""
    answer = sample.get("output_json")
    gold = differences(item.get("differences"))
    given = differences(answer.get("differences") if isinstance(answer, dict) else None)
    if gold is None or given is None or len(given) > MOST:
        return 0.0
    if not gold and not given:
        return 1.0
    return 2 * matched(gold, given) / (len(gold) + len(given))


def matched(gold: list[Difference], given: list[Difference]) -> float:
    """Return the credit of the pairs in sum, best first, every difference in one pair at most."""
    pairs = [
        (credit(one, other), place, number)
        for place, one in enumerate(gold)
        for number, other in enumerate(given)
        if one["clause"] == other["clause"] != ""
    ]
    free_gold, free_given = set(range(len(gold))), set(range(len(given)))
    total = 0.0
    for earned, place, number in sorted(pairs, reverse=True):
        if place in free_gold and number in free_given:
            free_gold.remove(place)
            free_given.remove(number)
            total += earned
    return total


def credit(one: Difference, other: Difference) -> float:
    """Return what a difference in the right clause earns."""
    similarity = (alike(one["first"], other["first"]) + alike(one["second"], other["second"])) / 2
    is_kind = one["kind"] == other["kind"] != ""
    return CLAUSE + KIND * is_kind + WORDING * similarity * (similarity >= ALIKE)


def alike(one: str, other: str) -> float:
    """Return the edit similarity of two wordings; 1.0 if both are empty."""
    return fuzz.ratio(one[:LONGEST], other[:LONGEST]) / 100


def differences(value: object) -> list[Difference] | None:
    """Return the differences in plain words, what is none as empty; None for no list."""
    if not isinstance(value, list):
        return None
    entries = [entry if isinstance(entry, dict) else {} for entry in value]
    keys = ("clause", "kind", "first", "second")
    return [{key: plain(entry.get(key)) for key in keys} for entry in entries]


def plain(value: object) -> str:
    """Return a text in lower case with single spaces and no full stop; empty for anything else."""
    if not isinstance(value, str):
        return ""
    return " ".join(unicodedata.normalize("NFC", value).lower().split()).rstrip(".")
