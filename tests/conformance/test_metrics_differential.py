"""Our text metrics against the libraries they replace, float for float.

The samples are random but seeded, so a failure repeats. Short texts are mixed from words that
share stems, synonyms and halves, and from what trips tokenizers; long texts show whatever only
repetition brings out. METEOR needs WordNet: see `wordnet_directory` for where it is looked for.
"""

import os
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from nltk.corpus.reader.wordnet import WordNetCorpusReader
from nltk.stem.porter import PorterStemmer
from nltk.tokenize import word_tokenize
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
from nltk.translate.gleu_score import sentence_gleu
from nltk.translate.meteor_score import single_meteor_score
from rapidfuzz import fuzz
from rouge_score import rouge_scorer
from rouge_score import tokenize as rouge_tokenize

from graders.metrics import METRICS, WordNet, meteor, porter, tokens

pytestmark = pytest.mark.differential

Pair = tuple[str, str]

PLAIN = (
    *("the", "The", "cat", "cats", "sat", "on", "a", "mat", "Paris", "paris", "run", "running"),
    *("ran", "runs", "dog", "dogs", "hound", "car", "automobile", "buy", "purchase", "purchased"),
    *("big", "large", "larger", "good", "better", "best", "child", "children", "kid", "happy"),
    *("happily", "glad", "is", "was", "be", "not", "of", "and", "to", "in", "it", "7", "42"),
    *("3.14", "1,000", "x1"),
)
TRAPS = (
    *("İ", "ı", "ß", "ẞ", "\u212a", "ſ", "é", "e\u0301", "Σ", "ΑΣ", "ﬁ", "東京", "タワー", "😀"),
    *(
        "👨\u200d👩\u200d👧",
        "\u200b",
        "a\u200bb",
        "\u200fשלום",
        "مرحبا",
        "a\u00a0b",
        "\u3000",
        "\u2028",
    ),
    *("can't", "Can't", "cannot", "gimme", "Gimme", "wanna", "gonna", "'tis", "'Twas", "d'ye"),
    *("more'n", "it's", "dogs'", "we'll", "WE'LL", "'em", "'s", "n't", "o'clock", "x's'", "'a"),
    *("...", "..", "--", "—", ".", ",", ",,", ":", "?!", "'", "''", '"', "`", "``", "*", "$5", "%"),
    *('"quoted"', "“curly”", "‘single’", "«guillemets»", "(paren)", "[x]", "{y}", "<z>", "a,b"),
    *("end.", 'end."', "U.S.", "e.g.", "3:4", "a:b", "@me", "#tag", "\n", "\t", "\x00", "\x1c"),
    *("\ud800", "٣", "²", "snake_case", "C++"),
)
# Without spaces between them these meet in ways that words do not.
FRAGMENTS = (*TRAPS, *PLAIN, *" \n.,:;'\"`-?!()[]<>stmdn", "  ", ". ", "' ", " '", "n't ", "'ll")
SEPARATORS = (" ", " ", " ", " ", " ", "  ", "\n", "", "\u00a0")


def short_text(rng: random.Random) -> str:
    if rng.random() < 0.2:
        return "".join(rng.choices(FRAGMENTS, k=rng.randint(0, 12)))
    words = rng.choices(PLAIN if rng.random() < 0.3 else (*PLAIN, *TRAPS), k=rng.randint(0, 14))
    return "".join(word + rng.choice(SEPARATORS) for word in words)


def edited(rng: random.Random, text: str) -> str:
    words = text.split(" ")
    for _ in range(rng.randint(0, 1 + len(words) // 3)):
        place = rng.randrange(len(words))
        match rng.randrange(5):
            case 0:
                words[place] = rng.choice((*PLAIN, *TRAPS))
            case 1:
                words[place] = words[place].swapcase()
            case 2:
                words.insert(place, rng.choice(words))
            case 3:
                words[place] += rng.choice(("s", "ed", "ing", ".", ",", "'s", "?"))
            case _:
                words[place] = ""
    if rng.random() < 0.1:
        rng.shuffle(words)
    return " ".join(words)


def short_pairs(seed: int, count: int) -> Iterator[Pair]:
    rng = random.Random(seed)
    for _ in range(count):
        text = short_text(rng)
        other = edited(rng, text) if rng.random() < 0.8 else short_text(rng)
        yield (text, other) if rng.random() < 0.5 else (other, text)


def long_pairs(seed: int, count: int, words: Sequence[str] = PLAIN) -> Iterator[Pair]:
    rng = random.Random(seed)
    for _ in range(count):
        # Few distinct words make many repeats.
        vocabulary = rng.choices((*words, *PLAIN, *TRAPS), k=rng.choice((2, 10, 100)))
        text = " ".join(rng.choices(vocabulary, k=rng.randint(60, 120)))
        other = " ".join(rng.choices(vocabulary, k=rng.randint(0, 120)))
        yield text, edited(rng, text) if rng.random() < 0.7 else other


def treebank(text: str) -> list[str]:
    found: list[str] = word_tokenize(text, preserve_line=True)
    return found


def assert_all_equal_the_libraries(pair: Pair) -> None:
    text, reference = pair
    ours, theirs = treebank(text), treebank(reference)
    method4 = SmoothingFunction().method4
    expected = {
        "fuzzy_match": fuzz.ratio(text, reference) / 100,
        "bleu": sentence_bleu([theirs], ours, smoothing_function=method4),
        "gleu": sentence_gleu([theirs], ours),
    }
    rouge_types = {f"rouge_{suffix}": f"rouge{suffix.upper()}" for suffix in "12345l"}
    scores = rouge_scorer.RougeScorer(list(rouge_types.values())).score(reference, text)
    expected |= {name: scores[kind].fmeasure for name, kind in rouge_types.items()}
    assert {name: score(text, reference) for name, score in METRICS.items()} == expected, pair


@pytest.mark.parametrize("seed", range(20))
def test_short_texts_score_like_the_libraries(seed: int) -> None:
    for pair in short_pairs(seed, 1_000):
        assert_all_equal_the_libraries(pair)


def test_long_texts_score_like_the_libraries() -> None:
    for pair in long_pairs(100, 1_000):
        assert_all_equal_the_libraries(pair)


@pytest.mark.property
@given(text=st.text(), reference=st.text())
@example(text="x." + " " * 50 + "y", reference=":::")
def test_any_texts_score_like_the_libraries(text: str, reference: str) -> None:
    assert_all_equal_the_libraries((text, reference))


@pytest.mark.parametrize("seed", range(4))
def test_tokens_are_those_of_nltk_and_rouge_score(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(20_000):
        text = "".join(rng.choices(FRAGMENTS, k=rng.randint(0, 12)))
        assert tokens.words(text) == treebank(text), repr(text)
        assert tokens.alphanumerics(text) == rouge_tokenize.tokenize(text, None), repr(text)


def wordnet_directory() -> Path:
    """Return GRADEKEEPER_WORDNET_DIR, or .venv/share/wordnet, or Debian's directory."""
    given_directory = os.environ.get("GRADEKEEPER_WORDNET_DIR")
    if given_directory:
        return Path(given_directory)
    local = Path(__file__).parents[2] / ".venv/share/wordnet"
    return local if (local / "index.noun").exists() else Path("/usr/share/wordnet")


class Reader(WordNetCorpusReader):  # type: ignore[misc]  # NLTK is published without types
    """NLTK's reader, without the mapping to other versions that wants NLTK's own data."""

    def map_wn(self, version: str = "wordnet") -> None:
        """Map nothing."""

    def synonyms(self, word: str) -> set[str]:
        """Return what NLTK's METEOR makes of a word's synsets."""
        names = (lemma.name() for synset in self.synsets(word) for lemma in synset.lemmas())
        return {name for name in names if "_" not in name}


@pytest.fixture(scope="module")
def wordnet() -> WordNet:
    """Give our reader; without WordNet its own message fails the tests, none is skipped."""
    ours = WordNet(wordnet_directory())
    ours.verify()
    return ours


@pytest.fixture(scope="module")
def reader(wordnet: WordNet, tmp_path_factory: pytest.TempPathFactory) -> Reader:
    root = tmp_path_factory.mktemp("wordnet")
    for file in wordnet.directory.iterdir():
        if file.is_file():
            (root / file.name).symlink_to(file.resolve())
    lexnames = root / "lexnames"
    lexnames.unlink(missing_ok=True)
    # NLTK insists on this list, which Debian's packages leave out; METEOR never sees the names.
    lexnames.write_text("".join(f"{number:02d}\tname{number}\t1\n" for number in range(45)))
    # Anything but None as the second argument keeps NLTK from warning about other languages.
    return Reader(str(root), omw_reader=object())


@pytest.fixture(scope="module")
def lemmas(reader: Reader) -> list[str]:
    known: dict[str, Any] = reader._lemma_pos_offset_map
    exceptions: dict[str, dict[str, Any]] = reader._exception_map
    return sorted({*known, *(word for listed in exceptions.values() for word in listed)})


@pytest.fixture(scope="module")
def assert_equal_meteor(wordnet: WordNet, reader: Reader) -> Callable[[Pair], None]:
    def check(pair: Pair) -> None:
        text, reference = pair
        expected = single_meteor_score(treebank(reference), treebank(text), wordnet=reader)
        assert meteor(text, reference, wordnet.synonyms) == expected, pair

    return check


@pytest.mark.parametrize("seed", range(6))
def test_short_texts_have_nltks_meteor(
    seed: int, assert_equal_meteor: Callable[[Pair], None]
) -> None:
    for pair in short_pairs(seed, 1_000):
        assert_equal_meteor(pair)


def test_long_texts_have_nltks_meteor(
    lemmas: list[str], assert_equal_meteor: Callable[[Pair], None]
) -> None:
    for pair in long_pairs(200, 600, lemmas):
        assert_equal_meteor(pair)


@pytest.mark.parametrize("seed", range(3))
def test_paraphrases_have_nltks_meteor(
    seed: int, lemmas: list[str], wordnet: WordNet, assert_equal_meteor: Callable[[Pair], None]
) -> None:
    rng = random.Random(seed)
    for _ in range(500):
        words = rng.choices(lemmas, k=rng.randint(1, 12)) * rng.randint(1, 2)
        other = [rng.choice([word, *sorted(wordnet.synonyms(word))]) for word in words]
        assert_equal_meteor((" ".join(words), " ".join(other)))


def test_synonyms_are_those_of_nltk(lemmas: list[str], wordnet: WordNet, reader: Reader) -> None:
    rng = random.Random(1)
    for lemma in rng.sample(lemmas, 40_000):
        word = lemma + rng.choice(("", "", "s", "es", "ed", "ing", "er", "est", "men"))
        assert wordnet.synonyms(word) == reader.synonyms(word), word
    for word in ("", "s", "ies", "men", "DOG", "dog food", "dog\n", "İ", "\ud800s", "(", "1"):
        assert wordnet.synonyms(word) == reader.synonyms(word), repr(word)


def test_stems_are_those_of_nltk(lemmas: list[str]) -> None:
    suffixes = tuple(suffix for suffix, _ in (*porter._DERIVED, *porter._DERIVED_AGAIN))
    suffixes += tuple(suffix for suffix, _ in porter._ENDINGS)
    suffixes += (
        "s",
        "es",
        "ies",
        "sses",
        "ied",
        "eed",
        "ed",
        "ing",
        "y",
        "e",
        "ll",
        "alli",
        "logi",
    )
    theirs = PorterStemmer()
    rng = random.Random(2)
    for _ in range(20_000):
        letters = rng.choices("aeiouyybcdlstwxz1'-éİΣſ", k=rng.randint(0, 6))
        for word in (rng.choice(lemmas), "".join(letters) + "".join(rng.choices(suffixes, k=2))):
            assert porter.stem(word) == theirs.stem(word), repr(word)
