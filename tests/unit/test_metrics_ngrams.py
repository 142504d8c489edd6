"""Clipped n-gram counts."""

import pytest

from graders.metrics import ngrams


@pytest.mark.parametrize(
    ("candidate", "reference", "order", "expected"),
    [
        ("the the the", "the cat the", 1, 2),  # clipped to the rarer side
        ("the cat the", "the the the", 1, 2),
        ("a b c", "a b d b c", 2, 2),
        ("a b", "a b", 3, 0),
        ("", "", 1, 0),
    ],
)
def test_matches_are_clipped(candidate: str, reference: str, order: int, expected: int) -> None:
    assert ngrams.matches(candidate.split(), reference.split(), order) == expected


@pytest.mark.parametrize(("order", "expected"), [(1, 3), (3, 1), (4, 0), (9, 0)])
def test_total_is_never_negative(order: int, expected: int) -> None:
    assert ngrams.total(["a", "b", "c"], order) == expected
