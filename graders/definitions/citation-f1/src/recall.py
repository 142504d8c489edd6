"""How much of the gold passages is cited."""

from typing import Any

from rapidfuzz import fuzz

ALIKE = 0.7  # similarity from which a citation is one of a gold passage
MOST = 100  # citations that are compared; all count


def grade(sample: dict[str, Any], item: dict[str, Any]) -> float:
    """Return the similarity of matched citations over the number of gold passages."""
    gold = passages(item.get("passages"))
    answer = sample.get("output_json")
    cited = passages(answer.get("citations") if isinstance(answer, dict) else None)
    if not cited or not gold:
        return float(cited == gold == [])
    return matched(cited[:MOST], gold) / len(gold)


def matched(cited: list[str], gold: list[str]) -> float:
    """Return the similarity of the pairs in sum, best first, every passage in one pair at most."""
    pairs = [
        (fuzz.ratio(text, passage) / 100, place, other)
        for place, text in enumerate(cited)
        for other, passage in enumerate(gold)
        if text
    ]
    free_cited, free_gold = set(range(len(cited))), set(range(len(gold)))
    total = 0.0
    for similarity, place, other in sorted(pairs, reverse=True):
        if similarity >= ALIKE and place in free_cited and other in free_gold:
            free_cited.remove(place)
            free_gold.remove(other)
            total += similarity
    return total


def passages(value: object) -> list[str] | None:
    """Return texts in lower case with single spaces, what is no text as empty; None for no list."""
    if not isinstance(value, list):
        return None
    return [" ".join(text.lower().split()) if isinstance(text, str) else "" for text in value]
