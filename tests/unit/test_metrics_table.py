"""The table of text metrics, fuzzy matching, and what holds for every metric."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graders.metrics import METRICS, PROFILE, meteor

SYMMETRIC = sorted(set(METRICS) - {"bleu"})
TEXTS = st.text(max_size=40) | st.lists(
    st.sampled_from(["the", "The", "cat", "can't", "İ", "\u212a", ".", ",", "\n"]), max_size=12
).map(" ".join)


def no_synonyms(_word: str) -> frozenset[str]:
    return frozenset()


def test_metrics_are_those_openai_names_besides_cosine_and_meteor() -> None:
    assert list(METRICS) == [
        *("fuzzy_match", "bleu", "gleu"),
        *("rouge_1", "rouge_2", "rouge_3", "rouge_4", "rouge_5", "rouge_l"),
    ]


def test_profile_names_what_the_values_equal() -> None:
    assert PROFILE == "nltk3.9.1-rouge0.1.2-fuzzratio"


@pytest.mark.parametrize(
    ("text", "reference", "expected"),
    [
        ("fuzzy wuzzy was a bear", "fuzzy wuzzy had no hair", 0.7555555555555555),
        ("Paris", "paris", 0.8),  # case counts
        ("", "abc", 0.0),
        ("", "", 1.0),  # rapidfuzz calls two empty texts equal
    ],
)
def test_fuzzy_match_is_rapidfuzz_ratio(text: str, reference: str, expected: float) -> None:
    assert METRICS["fuzzy_match"](text, reference) == expected


@pytest.mark.parametrize("name", sorted(set(METRICS) - {"fuzzy_match"}))
@pytest.mark.parametrize(("text", "reference"), [("", ""), ("", "a"), ("a", ""), (" \n", "a")])
def test_text_without_tokens_scores_nothing(name: str, text: str, reference: str) -> None:
    score = METRICS[name](text, reference)
    assert score == 0.0
    assert type(score) is float


@pytest.mark.property
@pytest.mark.parametrize("name", list(METRICS))
@given(text=TEXTS, reference=TEXTS)
def test_every_metric_is_bounded(name: str, text: str, reference: str) -> None:
    assert 0.0 <= METRICS[name](text, reference) <= 1.0


@pytest.mark.property
@given(text=TEXTS, reference=TEXTS)
def test_meteor_is_bounded_and_never_reaches_one(text: str, reference: str) -> None:
    assert 0.0 <= meteor(text, reference, no_synonyms) < 1.0


@pytest.mark.property
@pytest.mark.parametrize("name", SYMMETRIC)
@given(text=TEXTS, reference=TEXTS)
def test_all_but_bleu_are_symmetric_to_the_last_bit(name: str, text: str, reference: str) -> None:
    assert METRICS[name](text, reference) == METRICS[name](reference, text)
