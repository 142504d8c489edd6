"""Sentence GLEU against values computed with NLTK 3.9.1."""

import pytest

from graders.metrics.gleu import gleu


@pytest.mark.parametrize(
    ("text", "reference", "expected"),
    [
        ("the cat sat on the mat", "the cat sat on the mat", 1.0),
        ("the cat sat on the mat", "the cat is on the mat", 0.5),
        ("a b", "b a", 0.6666666666666666),
        ("one", "two", 0.0),
        ("a", "", 0.0),
        ("", "", 0.0),
    ],
)
def test_gleu_is_nltks(text: str, reference: str, expected: float) -> None:
    assert gleu(text, reference) == expected
