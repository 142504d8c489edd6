"""Our text metrics against the libraries they equal, in process, from two texts to a number."""

from __future__ import annotations

import contextlib
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from nltk.corpus.reader.wordnet import WordNetCorpusReader
from nltk.tokenize import word_tokenize
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
from nltk.translate.gleu_score import sentence_gleu
from nltk.translate.meteor_score import single_meteor_score
from rouge_score.rouge_scorer import RougeScorer

from graders.metrics import METRICS, WordNet, meteor
from service.adapters import find_wordnet
from tests.bench.rows import Row, at_least
from tests.bench.traffic import edited, text

_PAIRS = 3
_REPEATS = 5  # of ours, which is too fast to time once

_Metric = Callable[[str, str], float]


def run(rounds: int) -> list[Row]:
    """Return how many times faster ours are; both must give the same values.

    Raises:
        RuntimeError: WordNet is missing, or two values differ.
    """
    wordnet, hint = find_wordnet("")
    if wordnet is None:
        raise RuntimeError(hint)
    scorer, smoothing = RougeScorer(["rougeL"]), SmoothingFunction().method4

    def rouge_l(candidate: str, reference: str) -> float:
        value: float = scorer.score(reference, candidate)["rougeL"].fmeasure
        return value

    def bleu(candidate: str, reference: str) -> float:
        theirs, ours = [_words(reference)], _words(candidate)
        value: float = sentence_bleu(theirs, ours, smoothing_function=smoothing)
        return value

    def gleu(candidate: str, reference: str) -> float:
        value: float = sentence_gleu([_words(reference)], _words(candidate))
        return value

    with _reader(wordnet) as reader:

        def nltk_meteor(candidate: str, reference: str) -> float:
            theirs, ours = _words(reference), _words(candidate)
            value: float = single_meteor_score(theirs, ours, wordnet=reader)
            return value

        def own_meteor(candidate: str, reference: str) -> float:
            return meteor(candidate, reference, wordnet.synonyms)

        compared = (
            (1000, "ROUGE-L, 5,000 words: rouge-score / own", METRICS["rouge_l"], rouge_l, 5000),
            (10, "METEOR, 500 words: NLTK / own", own_meteor, nltk_meteor, 500),
            (2.5, "BLEU, 500 words: NLTK / own", METRICS["bleu"], bleu, 500),
            (2, "GLEU, 500 words: NLTK / own", METRICS["gleu"], gleu, 500),
        )
        return [
            at_least(bar, what, _times_faster(own, theirs, words, rounds))
            for bar, what, own, theirs, words in compared
        ]


def _times_faster(own: _Metric, theirs: _Metric, words: int, rounds: int) -> list[float]:
    """Return their CPU time divided by ours, one value a round."""
    rng = random.Random(11)
    factors: list[float] = []
    warm = text(rng, words)
    for metric in (own, theirs) if words < 1000 else (own,):
        metric(warm, edited(rng, warm))
    for _ in range(rounds):
        references = [text(rng, words) for _ in range(_PAIRS if words < 1000 else 1)]
        pairs = [(edited(rng, reference), reference) for reference in references]
        their_s, expected = _timed(theirs, pairs)
        our_s, values = min(_timed(own, pairs) for _ in range(_REPEATS))
        if values != expected:
            raise RuntimeError(f"{values} instead of {expected}")
        factors.append(their_s / our_s)
    return factors


def _timed(metric: _Metric, pairs: list[tuple[str, str]]) -> tuple[float, list[float]]:
    began = time.process_time()
    values = [metric(candidate, reference) for candidate, reference in pairs]
    return time.process_time() - began, values


def _words(line: str) -> list[str]:
    words: list[str] = word_tokenize(line, preserve_line=True)
    return words


class _Reader(WordNetCorpusReader):  # type: ignore[misc]  # NLTK is published without types
    """NLTK's reader, without the mapping between versions that wants data of its own."""

    def map_wn(self, version: str = "wordnet") -> None:
        pass


@contextlib.contextmanager
def _reader(wordnet: WordNet) -> Iterator[_Reader]:
    """Give NLTK's reader of the same data."""
    with tempfile.TemporaryDirectory() as directory:
        for file in wordnet.directory.iterdir():
            if file.is_file() and file.name != "lexnames":
                Path(directory, file.name).symlink_to(file.resolve())
        # NLTK insists on this list, which Debian's packages leave out; METEOR never sees the names.
        names = "".join(f"{number:02d}\tname{number}\t1\n" for number in range(45))
        Path(directory, "lexnames").write_text(names)
        # Anything but None as the second argument keeps NLTK from warning about other languages.
        yield _Reader(directory, omw_reader=object())
