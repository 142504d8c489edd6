"""Clipped n-gram matches: the count that BLEU, GLEU and ROUGE-N have in common."""

from collections import Counter
from collections.abc import Iterator, Sequence

__all__ = ["matches", "total"]


def total(tokens: Sequence[str], order: int) -> int:
    """Return how many n-grams of length ``order`` (at least 1) the tokens hold."""
    return max(0, len(tokens) - order + 1)


def matches(candidate: Sequence[str], reference: Sequence[str], order: int) -> int:
    """Return how many n-grams of length ``order`` both sides share.

    Each n-gram counts as often as it occurs on the side that has it less often, hence the
    count is symmetric; 0 if either side is shorter than ``order``.
    """
    unmatched = Counter(_ngrams(reference, order))
    left_of = unmatched.get
    matched = 0
    for ngram in _ngrams(candidate, order):
        left = left_of(ngram)
        if left:
            unmatched[ngram] = left - 1
            matched += 1
    return matched


def _ngrams(tokens: Sequence[str], order: int) -> Iterator[tuple[str, ...]]:
    return zip(*(tokens[start:] for start in range(order)), strict=False)
