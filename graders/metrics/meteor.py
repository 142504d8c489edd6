"""METEOR for one reference, equal to NLTK 3.9.1's ``single_meteor_score`` with its defaults.

Words of both texts are lower-cased and paired in three stages: equal words, equal Porter
stems, and WordNet synonyms of what is left. In every stage the candidate is read backwards
and each word takes the last partner that is free, as NLTK does; another choice among equal
partners would be another number of chunks and another score.

Source: Lavie and Agarwal 2007, "METEOR: An Automatic Metric for MT Evaluation".
"""

from collections.abc import Callable
from itertools import pairwise

from graders.metrics import porter, tokens

__all__ = ["meteor"]

_ALPHA = 0.9  # weight of precision against recall
_BETA = 3.0  # shape of the penalty for fragmentation
_GAMMA = 0.5  # largest such penalty


def meteor(candidate: str, reference: str, synonyms: Callable[[str], frozenset[str]]) -> float:
    """Return the METEOR score of ``candidate`` against one ``reference``; not symmetric.

    Args:
        candidate: The graded text.
        reference: The text it is compared with.
        synonyms: Gives the synonyms of a lower-case word, `WordNet.synonyms` as a rule. It is
            asked for the stems of those candidate words that have no partner otherwise.

    Returns:
        A similarity in [0, 1); 0.0 if either text has no words or no words pair up. Equal
        texts of n words score ``1 - 0.5 / n**3``, a single equal word thus 0.5.
    """
    ours = [word.lower() for word in tokens.words(candidate)]
    theirs = [word.lower() for word in tokens.words(reference)]
    pairs = _pairs(ours, theirs, synonyms)
    if not pairs:
        return 0.0
    precision = len(pairs) / len(ours)
    recall = len(pairs) / len(theirs)
    # NLTK's order of operations, as every other one differs in the last bit.
    mean = (precision * recall) / (_ALPHA * precision + (1 - _ALPHA) * recall)
    penalty: float = _GAMMA * (_chunks(pairs) / len(pairs)) ** _BETA
    return (1 - penalty) * mean


def _pairs(
    ours: list[str], theirs: list[str], synonyms: Callable[[str], frozenset[str]]
) -> list[tuple[int, int]]:
    """Return the paired positions, those of the candidate ascending."""
    our_words = dict(enumerate(ours))
    their_words = dict(enumerate(theirs))
    pairs = _pair_equals(our_words, their_words)
    for left in (our_words, their_words):
        left.update({position: porter.stem(word) for position, word in left.items()})
    pairs += _pair_equals(our_words, their_words)
    pairs += _pair_synonyms(our_words, their_words, synonyms)
    return sorted(pairs)


def _pair_equals(ours: dict[int, str], theirs: dict[int, str]) -> list[tuple[int, int]]:
    """Pair equal words by position, and take the paired ones out of both sides."""
    free = _positions(theirs)
    pairs = [
        (position, free[word].pop()) for position, word in reversed(ours.items()) if free.get(word)
    ]
    for our_position, their_position in pairs:
        del ours[our_position], theirs[their_position]
    return pairs


def _pair_synonyms(
    ours: dict[int, str], theirs: dict[int, str], synonyms: Callable[[str], frozenset[str]]
) -> list[tuple[int, int]]:
    """Pair every word with the last free synonym of it."""
    free = _positions(theirs)
    pairs = []
    for position, word in reversed(ours.items()):
        last = max((free[name][-1] for name in synonyms(word) if free.get(name)), default=None)
        if last is not None:
            free[theirs[last]].pop()
            pairs.append((position, last))
    return pairs


def _positions(words: dict[int, str]) -> dict[str, list[int]]:
    """Return the positions of each distinct word, ascending: a stack that pops the last."""
    positions: dict[str, list[int]] = {}
    for position, word in words.items():
        positions.setdefault(word, []).append(position)
    return positions


def _chunks(pairs: list[tuple[int, int]]) -> int:
    """Return the number of runs of pairs that are adjacent on both sides."""
    return 1 + sum(
        following != (ours + 1, theirs + 1) for (ours, theirs), following in pairwise(pairs)
    )
