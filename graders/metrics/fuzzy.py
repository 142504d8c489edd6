"""Normalised indel similarity of characters, rapidfuzz's ``ratio``."""

from rapidfuzz import fuzz

__all__ = ["fuzzy_match"]


def fuzzy_match(candidate: str, reference: str) -> float:
    """Return ``rapidfuzz.fuzz.ratio`` of two texts over 100, without any preprocessing.

    Symmetric, in [0, 1]; two empty texts are equal and score 1.0. Time grows with the product
    of the lengths, and rapidfuzz holds the GIL: bound the texts before calling.
    """
    return fuzz.ratio(candidate, reference) / 100
