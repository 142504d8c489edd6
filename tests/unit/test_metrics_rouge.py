"""ROUGE F-measures against values computed with rouge-score 0.1.2."""

import pytest

from graders.metrics.rouge import rouge_l, rouge_n


@pytest.mark.parametrize(
    ("order", "expected"),
    [(1, 0.8333333333333334), (2, 0.6), (3, 0.25), (4, 0.0), (5, 0.0)],
)
def test_rouge_n_is_the_f_measure_of_ngrams(order: int, expected: float) -> None:
    assert rouge_n("the cat sat on the mat", "the cat is on the mat", order=order) == expected


@pytest.mark.parametrize(
    ("text", "reference", "expected"),
    [
        ("Hello, World!", "hello world", 1.0),
        ("hello world", "world hello", 0.5),
        ("東京", "東京", 0.0),  # no ASCII letters, no tokens
        ("", "", 0.0),
    ],
)
def test_rouge_l_is_the_f_measure_of_the_longest_common_subsequence(
    text: str, reference: str, expected: float
) -> None:
    assert rouge_l(text, reference) == expected


def test_texts_shorter_than_the_order_score_nothing() -> None:
    assert rouge_n("a b c d", "a b c d", order=5) == 0.0
