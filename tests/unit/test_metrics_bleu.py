"""Sentence BLEU against values computed with NLTK 3.9.1, smoothing method 4."""

import pytest

from graders.metrics.bleu import bleu

ACTION = (
    "It is a guide to action which ensures that the military always obeys the commands of the party"
)
FOREVER = "It is a guide to action that ensures that the military will forever heed Party commands"


@pytest.mark.parametrize(
    ("text", "reference", "expected"),
    [
        (ACTION, FOREVER, 0.41180376356915777),  # longer than the reference: no penalty
        ("the cat sat on the mat", "the cat is on the mat", 0.293945703509473),
        ("Paris", "Paris", 1.0),  # one word has no longer n-grams to miss
        ("sam's club", "sam's club", 0.5757197301274735),  # three words have no four-gram
        ("a b", "b a", 0.08032423517939204),
        ("a b c d e", "a b c d e f", 0.8187307530779819),  # shorter: penalty only
        ("Paris", "paris", 0.0),
        ("Paris", "Paris Texas", 0.36787944117144233),
        ("", "a", 0.0),
        ("a", "", 0.0),
    ],
)
def test_bleu_is_nltks(text: str, reference: str, expected: float) -> None:
    assert bleu(text, reference) == expected
