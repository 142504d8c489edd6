"""``text_similarity``: how alike two rendered strings are, by a text metric (spec §3.2, §9.7).

Ten of the eleven run here, bit-identical to rapidfuzz, NLTK 3.9.1 and rouge-score 0.1.2. ``cosine``
asks an embeddings model: `build_request` makes the question and `score` reads the vectors.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from graders import schema
from graders.building import Builder, Item, Options, Score
from graders.errors import EmbedderUnavailableError, InputTooLongError
from graders.metrics import METRICS, meteor
from graders.ports import EmbeddingCall, EmbeddingReply
from graders.sample import Sample


def build(grader: schema.TextSimilarity, builder: Builder, pointer: str) -> Score:
    """Return the compiled comparison for every metric but ``cosine``."""
    render = _texts(grader, builder, pointer)
    metric = _metric(grader, builder, pointer)

    def graded(item: Item, sample: Sample) -> float:
        text, reference = render(item, sample)
        return metric(text, reference)

    return graded


def build_request(
    grader: schema.TextSimilarity, builder: Builder, pointer: str
) -> Callable[[Item, Sample], EmbeddingCall]:
    """Return what builds the embeddings call of a ``cosine`` grader."""
    render = _texts(grader, builder, pointer)
    model = builder.options.embedding_model

    def request(item: Item, sample: Sample) -> EmbeddingCall:
        return EmbeddingCall(model=model, texts=render(item, sample))

    return request


def score(reply: EmbeddingReply) -> float:
    """Return the cosine of the two vectors, in [-1, 1]; not clamped to [0, 1].

    Raises:
        EmbedderUnavailableError: The reply does not hold two vectors of one length that have a
            direction.
    """
    if len(reply.vectors) != 2 or len(reply.vectors[0]) != len(reply.vectors[1]):  # noqa: PLR2004 - input and reference
        raise EmbedderUnavailableError(
            "the embeddings reply does not hold two vectors of one length"
        )
    first, second = reply.vectors
    norm = math.hypot(*first) * math.hypot(*second)
    if not (norm > 0 and math.isfinite(norm)):
        raise EmbedderUnavailableError("an embedding has no direction")
    product = math.fsum(a * b for a, b in zip(first, second, strict=True))
    return max(-1.0, min(1.0, product / norm))


def _texts(
    grader: schema.TextSimilarity, builder: Builder, pointer: str
) -> Callable[[Item, Sample], tuple[str, str]]:
    text = builder.template(grader.input, f"{pointer}/input").render
    reference = builder.template(grader.reference, f"{pointer}/reference").render
    limit = _limit(grader.evaluation_metric, builder.options)
    what = grader.evaluation_metric

    def render(item: Item, sample: Sample) -> tuple[str, str]:
        pair = text(item, sample), reference(item, sample)
        for name, rendered in zip(("input", "reference"), pair, strict=True):
            if len(rendered) > limit:
                raise InputTooLongError(
                    f"{name} of {what} has {len(rendered)} characters; the limit is {limit}"
                )
        return pair

    return render


def _limit(metric: schema.EvaluationMetric, options: Options) -> int:
    return options.max_fuzzy_chars if metric == "fuzzy_match" else options.max_metric_chars


def _metric(
    grader: schema.TextSimilarity, builder: Builder, pointer: str
) -> Callable[[str, str], float]:
    if grader.evaluation_metric != "meteor":
        return METRICS[grader.evaluation_metric]
    synonyms = builder.options.synonyms
    if synonyms is None:
        message = "meteor needs WordNet 3.0, which is not installed here."
        hint = builder.options.synonyms_hint
        builder.error(f"{pointer}/evaluation_metric", f"{message} {hint}".rstrip(), "missing_data")
        return METRICS["rouge_1"]  # never called: the definition is refused
    return lambda text, reference: meteor(text, reference, synonyms)
