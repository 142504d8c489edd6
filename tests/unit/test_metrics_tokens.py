"""The two tokenizers: one row per rule that decides about tokens."""

import pytest

from graders.metrics import tokens


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("Hello, World-2!", ["hello", "world", "2"]),
        ("\u212aelvin", ["kelvin"]),  # the Kelvin sign has an ASCII lower case
        ("İstanbul", ["i", "stanbul"]),  # İ becomes i and a combining dot
        ("Straße", ["stra", "e"]),
        ("東京 ٣", []),
    ],
)
def test_alphanumerics_are_lower_case_ascii_runs(text: str, expected: list[str]) -> None:
    assert tokens.alphanumerics(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("", "", id="empty"),
        pytest.param(" \t\n", "", id="blank"),
        pytest.param("Two words", "Two words", id="case is kept"),
        pytest.param('"Hi"', "`` Hi ''", id="quotes"),
        pytest.param('a ("b")', "a ( `` b '' )", id="quote after bracket"),
        pytest.param("a ''b''", "a `` b ''", id="double apostrophes"),
        pytest.param("```x`", "`` ` x `", id="backticks"),
        pytest.param("«a» “b” ‘c’", "« a » “ b ” ‘ c ’", id="typographic quotes"),
        pytest.param("'a 's", "' a 's", id="apostrophe before a lone letter"),
        pytest.param("'\u017f", "'\u017f", id="long s is a clitic"),
        pytest.param("End.", "End .", id="final period"),
        pytest.param('End.") \n', "End . '' )", id="final period, closers"),
        pytest.param("a.b. c", "a.b. c", id="inner periods"),
        pytest.param(".", ".", id="lone period"),
        pytest.param("wait...", "wait ...", id="periods"),
        pytest.param("a, b: 3,5 4:5", "a , b : 3,5 4:5", id="before digits"),
        pytest.param("a,", "a ,", id="final comma"),
        pytest.param("a,,b", "a , ,b", id="second of two commas"),
        pytest.param("$5 & 6%; x@y #1", "$ 5 & 6 % ; x @ y # 1", id="marks"),
        pytest.param("eh?! [a]{b}<c>*", "eh ? ! [ a ] { b } < c > *", id="more marks"),
        pytest.param("a--b", "a -- b", id="dashes"),
        pytest.param("dogs' tails", "dogs ' tails", id="apostrophe after a word"),
        pytest.param("x's'? y", "x 's ' ? y", id="apostrophe before early mark"),
        pytest.param("x's'( y", "x's ' ( y", id="apostrophe before late mark"),
        pytest.param("it's can't we'll", "it 's ca n't we 'll", id="clitics"),
        pytest.param("We'Re", "We'Re", id="mixed case is no clitic"),
        pytest.param("Cannot gimme d'ye", "Can not gim me d 'ye", id="fused words"),
        pytest.param("wanna wannabe", "wan na wannabe", id="wanna needs a space"),
        pytest.param("g\u0131mme", "g\u0131m me", id="dotless i folds to i"),
        pytest.param("'tis 'Twas", "'t is 'T was", id="fused it"),
        pytest.param("'tis'twas", "'t is 't was", id="tis is cut before twas"),
        pytest.param("'twas'tis", "'t was 'tis", id="and not after it"),
        pytest.param("a\u00a0b\u200bc", "a b\u200bc", id="only white space separates"),
    ],
)
def test_words_follow_the_treebank_rules(text: str, expected: str) -> None:
    assert tokens.words(text) == expected.split()
