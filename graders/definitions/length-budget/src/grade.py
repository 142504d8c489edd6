"""Whether an answer keeps to its budget of characters or words; linear decay outside of it."""

import unicodedata
from typing import Any

LONGEST_WORD = 30  # characters: a longer run counts as several words
APOSTROPHES = "'\u2019"


def grade(sample: dict[str, Any], item: dict[str, Any]) -> float:
    """Return 1.0 within the budget; 0.0 for an empty answer and at twice the most and beyond."""
    most, least = count(item.get("max")), count(item.get("min", 0))
    measure = {"characters": characters, "words": words}.get(str(item.get("unit")))
    text = sample.get("output_text")
    if measure is None or not most or least is None or least > most or not isinstance(text, str):
        return 0.0
    length = measure(text)
    if length > most:
        return max(0.0, 1 - (length - most) / most)
    if length < least:
        return length / least
    return 1.0 if length else 0.0


def characters(text: str) -> int:
    """Return the number of characters, composed; runs of white space and of nothing count one."""
    return len(" ".join(separated(unicodedata.normalize("NFC", text), keep="PS").split()))


def words(text: str) -> int:
    """Return the number of words; hyphens, punctuation and what cannot be seen separate them."""
    found = separated(text, keep="").split()
    return sum(-(-len(word) // LONGEST_WORD) for word in found)


def separated(text: str, *, keep: str) -> str:
    """Return ``text`` with a space for all but letters, marks, digits and categories ``keep``."""
    kept = {
        char: unicodedata.category(char)[0] in "LMN" + keep or char in APOSTROPHES
        for char in set(text)
    }
    return "".join(char if kept[char] else " " for char in text)


def count(value: object) -> int | None:
    """Return ``value`` if it is a whole number of at least 0."""
    is_count = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    return value if is_count else None
