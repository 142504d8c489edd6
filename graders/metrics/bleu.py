"""Sentence BLEU with Chen and Cherry's smoothing 4, equal to NLTK 3.9.1.

``sentence_bleu([reference], candidate, smoothing_function=SmoothingFunction().method4)`` on
`tokens.words`, case-sensitive, up to four-grams with equal weights.

Source: Papineni et al. 2002; Chen and Cherry 2014, section 3, method 4.
"""

import math

from graders.metrics import ngrams, tokens

__all__ = ["bleu"]

_ORDERS = 4
_WEIGHT = 1 / _ORDERS
_SMOOTHING = 5  # K of method 4


def bleu(candidate: str, reference: str) -> float:
    """Return the smoothed sentence BLEU of ``candidate`` against one ``reference``.

    The geometric mean of the n-gram precisions, times a penalty if the candidate is shorter
    than the reference; not symmetric.

    Args:
        candidate: The graded text.
        reference: The text it is compared with.

    Returns:
        A similarity in [0, 1]; 0.0 if no word matches or either text has no words.
    """
    ours = tokens.words(candidate)
    theirs = tokens.words(reference)
    precisions = _precisions(ours, theirs)
    if not precisions:
        return 0.0
    # NLTK's order of operations, as every other one differs in the last bit.
    mean = math.exp(math.fsum(_WEIGHT * math.log(precision) for precision in precisions))
    if len(ours) > len(theirs):
        return mean
    return math.exp(1 - len(theirs) / len(ours)) * mean


def _precisions(ours: list[str], theirs: list[str]) -> list[float]:
    """Return the smoothed precision of every order, none at all if no word matches.

    An order without a match counts as ``ln(length) / (K * 2**zeros)`` matches, ``zeros``
    being the number of such orders so far. A candidate of one word has no longer n-grams and
    is judged by that word alone.
    """
    precisions: list[float] = []
    zeros = 0
    matched = 1
    for order in range(1, _ORDERS + 1):
        # Without a match of one order there is none of the next.
        matched = matched and ngrams.matches(ours, theirs, order)
        attempts = max(1, ngrams.total(ours, order))
        if matched:
            precisions.append(matched / attempts)
        elif order == 1 or len(ours) == 1:
            break
        else:
            zeros += 1
            smoothed = 1 / (2**zeros * _SMOOTHING / math.log(len(ours)))
            precisions.append(smoothed / attempts)
    return precisions
