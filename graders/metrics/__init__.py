"""The text metrics of the `text_similarity` grader, as pure functions of two texts.

Every metric gives bit for bit the value of the library it is named after, without importing
that library: rapidfuzz for `fuzzy_match`, NLTK 3.9.1 for `bleu`, `gleu` and `meteor`,
rouge-score 0.1.2 for `rouge_*`. The first text is the grader's input (hypothesis), the second
its reference. Limits on length are the caller's.
"""

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

from graders.metrics.bleu import bleu
from graders.metrics.fuzzy import fuzzy_match
from graders.metrics.gleu import gleu
from graders.metrics.meteor import meteor
from graders.metrics.rouge import rouge_l, rouge_n
from graders.metrics.wordnet import WordNet, WordNetNotFoundError

__all__ = ["METRICS", "PROFILE", "WordNet", "WordNetNotFoundError", "meteor"]

PROFILE: str = "nltk3.9.1-rouge0.1.2-fuzzratio"
"""Name of the metric profile in signatures; a metric that changes a value changes this."""

METRICS: Mapping[str, Callable[[str, str], float]] = MappingProxyType(
    {
        "fuzzy_match": fuzzy_match,
        "bleu": bleu,
        "gleu": gleu,
        "rouge_1": partial(rouge_n, order=1),
        "rouge_2": partial(rouge_n, order=2),
        "rouge_3": partial(rouge_n, order=3),
        "rouge_4": partial(rouge_n, order=4),
        "rouge_5": partial(rouge_n, order=5),
        "rouge_l": rouge_l,
    }
)
"""Metrics by their OpenAI name, taking (input, reference); `meteor` needs WordNet besides."""
