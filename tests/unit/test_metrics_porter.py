"""Stems, one row per rule of the stemmer that can decide."""

import pytest

from graders.metrics.porter import stem


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("", ""),
        ("As", "as"),  # too short to cut
        ("skies", "sky"),  # irregular
        ("News", "new"),  # irregular words are looked up before lower-casing
        ("dies", "die"),
        ("ponies", "poni"),
        ("caresses", "caress"),
        ("caress", "caress"),
        ("cats", "cat"),
        ("died", "die"),
        ("spied", "spi"),
        ("feed", "feed"),
        ("agreed", "agre"),
        ("bled", "bled"),
        ("sing", "sing"),
        ("plastered", "plaster"),
        ("conflated", "conflat"),
        ("troubled", "troubl"),
        ("sizing", "size"),
        ("hopping", "hop"),
        ("falling", "fall"),
        ("filing", "file"),
        ("failing", "fail"),
        ("boxing", "box"),  # x is no letter to end a short stem
        ("owed", "owe"),  # "ow" is short by NLTK's extension
        ("happy", "happi"),
        ("enjoy", "enjoy"),
        ("bys", "by"),
        ("syzygy", "syzygi"),  # y is a vowel after a consonant only
        ("relational", "relat"),
        ("rally", "ralli"),
        ("radically", "radic"),
        ("geology", "geolog"),
        ("logy", "logi"),
        ("hopefully", "hope"),
        ("triplicate", "triplic"),
        ("goodness", "good"),
        ("adoption", "adopt"),
        ("aversion", "avers"),
        ("champion", "champion"),
        ("replacement", "replac"),
        ("cement", "cement"),
        ("probate", "probat"),
        ("rate", "rate"),
        ("cease", "ceas"),
        ("controll", "control"),
        ("roll", "roll"),
        ("٣東京s", "٣東京"),  # other scripts are consonants
        (f"{'y' * 3000}s", f"{'y' * 2999}i"),  # too long to remember; NLTK overflows its stack
    ],
)
def test_stem_is_porters_with_nltks_extensions(word: str, expected: str) -> None:
    assert stem(word) == expected
