"""METEOR against values computed with NLTK 3.9.1 and the same synonyms."""

import pytest

from graders.metrics.meteor import meteor

SYNONYMS = {"big": {"large"}, "hound": {"dog"}, "buy": {"acquire", "get", "unseen"}}
ACTION = (
    "It is a guide to action which ensures that the military always obeys the commands of the party"
)
FOREVER = "It is a guide to action that ensures that the military will forever heed Party commands"


def synonyms(word: str) -> frozenset[str]:
    return frozenset(SYNONYMS.get(word, ()))


@pytest.mark.parametrize(
    ("text", "reference", "expected"),
    [
        pytest.param(ACTION, FOREVER, 0.6944444444444445, id="equal words in chunks"),
        pytest.param("Paris", "paris", 0.5, id="case is ignored, one word is all fragments"),
        pytest.param("running dogs", "dog runs", 0.5, id="stems"),
        pytest.param("a hound", "a dog", 0.9375, id="synonyms"),
        # The stem of "large" is "larg", which is nobody's synonym.
        pytest.param("a big hound", "a large dog", 0.3333333333333333, id="synonyms of stems"),
        pytest.param("x y x", "x x", 0.4761904761904762, id="repeats take the last partner"),
        pytest.param("buy buy", "get acquire get", 0.3448275862068965, id="last free synonym"),
        pytest.param("one", "two", 0.0, id="nothing in common"),
        pytest.param("", "a", 0.0, id="empty text"),
        pytest.param("a", "", 0.0, id="empty reference"),
    ],
)
def test_meteor_is_nltks(text: str, reference: str, expected: float) -> None:
    assert meteor(text, reference, synonyms) == expected


def test_only_stems_without_partner_are_looked_up() -> None:
    asked: list[str] = []

    def record(word: str) -> frozenset[str]:
        asked.append(word)
        return frozenset()

    meteor("the dogs were barking loudly", "the dog", record)
    assert asked == ["loudli", "bark", "were"]
