"""ROUGE-N and ROUGE-L F-measures, equal to rouge-score 0.1.2 without stemmer.

Texts are lower-cased and cut by `tokens.alphanumerics`. The F-measure is symmetric in the
two texts; it is 0.0 if either has no tokens or nothing matches.

Source: Lin 2004, "ROUGE: A Package for Automatic Evaluation of Summaries", sections 2 and 3.
"""

from collections.abc import Sequence

from rapidfuzz.distance import LCSseq

from graders.metrics import ngrams, tokens

__all__ = ["rouge_l", "rouge_n"]


def rouge_n(candidate: str, reference: str, *, order: int) -> float:
    """Return the ROUGE-N F-measure of two texts in [0, 1].

    Args:
        candidate: The graded text.
        reference: The text it is compared with.
        order: Length of the n-grams in tokens, at least 1. Texts with fewer tokens score 0.0.

    Returns:
        Harmonic mean of n-gram precision and recall.
    """
    ours = tokens.alphanumerics(candidate)
    theirs = tokens.alphanumerics(reference)
    matched = ngrams.matches(ours, theirs, order)
    return _f_measure(matched, ngrams.total(ours, order), ngrams.total(theirs, order))


def rouge_l(candidate: str, reference: str) -> float:
    """Return the ROUGE-L F-measure of two texts in [0, 1].

    Precision and recall are the length of the longest common subsequence of tokens, divided
    by the number of tokens of ``candidate`` and of ``reference``.
    """
    ours = tokens.alphanumerics(candidate)
    theirs = tokens.alphanumerics(reference)
    common = LCSseq.similarity(*_numbered(ours, theirs))
    return _f_measure(common, len(ours), len(theirs))


def _numbered(ours: Sequence[str], theirs: Sequence[str]) -> tuple[list[int], list[int]]:
    # rapidfuzz compares list elements by hash; small integers hash to themselves, so that
    # two words can never be taken for one.
    numbers: dict[str, int] = {}
    return (
        [numbers.setdefault(token, len(numbers)) for token in ours],
        [numbers.setdefault(token, len(numbers)) for token in theirs],
    )


def _f_measure(matched: int, ours: int, theirs: int) -> float:
    if matched == 0:
        return 0.0
    # The order of operations is rouge-score's; another one differs in the last bit.
    precision = matched / ours
    recall = matched / theirs
    return 2 * precision * recall / (precision + recall)
