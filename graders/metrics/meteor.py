"""METEOR for one reference, equal to NLTK 3.9.1's ``single_meteor_score`` with its defaults.

Words of both texts are lower-cased and paired in three stages: equal words, equal Porter
stems, and WordNet synonyms of what is left. In every stage the candidate is read backwards
and each word takes the last partner that is free, as NLTK does; another choice among equal
partners would be another number of chunks and another score.

Source: Lavie and Agarwal 2007, "METEOR: An Automatic Metric for MT Evaluation".
"""

from collections.abc import Callable, Iterable
from itertools import pairwise

from graders.metrics import porter, tokens

__all__ = ["meteor"]

_Word = tuple[int, str]  # position and word
_Pair = tuple[int, int]  # position in the candidate and in the reference

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
        A similarity in [0, 1]; 0.0 if either text has no words or no words pair up. Equal
        texts of n words score ``1 - 0.5 / n**3``, a single equal word thus 0.5.
    """
    ours = list(map(str.lower, tokens.words(candidate)))
    theirs = list(map(str.lower, tokens.words(reference)))
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
) -> list[_Pair]:
    """Return the paired positions, those of the candidate ascending."""
    our_words = zip(range(len(ours) - 1, -1, -1), reversed(ours), strict=True)
    equal, our_rest, their_rest = _pair_equals(our_words, enumerate(theirs))
    alike, our_rest, their_rest = _pair_equals(_stems(our_rest), _stems(their_rest))
    return sorted(equal + alike + _pair_synonyms(our_rest, their_rest, synonyms))


def _stems(words: list[_Word]) -> list[_Word]:
    return [(position, porter.stem(word)) for position, word in words]


def _pair_equals(
    ours: Iterable[_Word], theirs: Iterable[_Word]
) -> tuple[list[_Pair], list[_Word], list[_Word]]:
    """Pair equal words; return the pairs and what is left of both sides.

    Our words come and are left in descending order, theirs in ascending order.
    """
    free = _positions(theirs)
    pairs = []
    rest = []
    for place in ours:
        partners = free.get(place[1])
        if partners:
            pairs.append((place[0], partners.pop()))
        else:
            rest.append(place)
    return pairs, rest, sorted([(last, word) for word, left in free.items() for last in left])


def _pair_synonyms(
    ours: list[_Word], theirs: list[_Word], synonyms: Callable[[str], frozenset[str]]
) -> list[_Pair]:
    """Pair each of our words, in descending order, with the last free synonym of it."""
    free = _positions(theirs)
    pairs = []
    for position, word in ours:
        names = [name for name in synonyms(word) if free.get(name)]
        if names:
            last = max(names, key=lambda name: free[name][-1])
            pairs.append((position, free[last].pop()))
    return pairs


def _positions(words: Iterable[_Word]) -> dict[str, list[int]]:
    """Return the positions of each distinct word, ascending: a stack that pops the last."""
    positions: dict[str, list[int]] = {}
    for position, word in words:
        if word in positions:
            positions[word].append(position)
        else:
            positions[word] = [position]
    return positions


def _chunks(pairs: list[_Pair]) -> int:
    """Return the number of runs of pairs that are adjacent on both sides."""
    breaks = [
        following
        for (ours, theirs), following in pairwise(pairs)
        if following != (ours + 1, theirs + 1)
    ]
    return 1 + len(breaks)
