import math
from typing import Any

import pytest

from graders.building import Options
from graders.engine import CompiledGrader, compile_grader
from graders.errors import EmbedderUnavailableError
from graders.grade import Grade
from graders.ports import EmbeddingReply, Ports
from graders.sample import Sample
from tests.fakes import USAGE, FakeEmbedder

SIDES = {"input": "{{sample.output_text}}", "reference": "{{item.r}}"}


def compiled(metric: str, options: Options | None = None) -> CompiledGrader:
    raw: dict[str, Any] = {"type": "text_similarity", "name": "g", "evaluation_metric": metric}
    return compile_grader({**raw, **SIDES}, options or Options(), purpose="store")


async def cosine(*vectors: tuple[float, ...]) -> Grade:
    answer = EmbeddingReply(
        vectors=vectors, model="text-embedding-3-large", usage=USAGE, key="k", cached=True
    )
    ports = Ports(embedder=FakeEmbedder(lambda _call: answer))
    return await compiled("cosine").grade({"r": "b"}, Sample("a"), ports)


@pytest.mark.parametrize(
    ("metric", "reward"),
    [
        ("fuzzy_match", 0.9302325581395349),
        ("rouge_1", 0.8333333333333334),
        ("rouge_2", 0.6),
        ("rouge_l", 0.8333333333333334),
        ("bleu", 0.2939461834450562),
    ],
)
def test_metric_takes_the_input_as_hypothesis(metric: str, reward: float) -> None:
    # Published values for this pair (spec §10).
    grade = compiled(metric).grade_now(
        {"r": "the cat is on the mat"}, Sample("the cat sat on the mat")
    )
    assert grade.ok
    assert grade.reward == pytest.approx(reward, abs=1e-6)


def test_meteor_uses_the_synonyms_of_the_process() -> None:
    with_synonyms = Options(synonyms=lambda word: frozenset({"car", "auto"} & {word, "car"}))
    without_synonyms = Options(synonyms=lambda _word: frozenset())
    rewards = [
        compiled("meteor", options).grade_now({"r": "a car"}, Sample("a auto")).reward
        for options in (with_synonyms, without_synonyms)
    ]
    assert rewards[0] > rewards[1]


@pytest.mark.parametrize("metric", ["fuzzy_match", "rouge_l", "bleu"])
@pytest.mark.parametrize("long", ["input", "reference"])
def test_text_over_the_limit_is_a_failure_and_never_scored(metric: str, long: str) -> None:
    grader = compiled(metric, Options(max_fuzzy_chars=10, max_metric_chars=10))
    texts = {"input": "a", "reference": "b"} | {long: "x" * 11}
    grade = grader.grade_now({"r": texts["reference"]}, Sample(texts["input"]))
    assert grade.reward == 0.0
    assert [failure.code for failure in grade.failures] == ["input_too_long"]
    assert grade.failures[0].message == f"{long} of {metric} has 11 characters; the limit is 10"
    assert grader.grade_now({"r": "x" * 10}, Sample("x" * 10)).ok


def test_fuzzy_match_has_a_limit_of_its_own() -> None:
    options = Options(max_fuzzy_chars=1, max_metric_chars=10)
    assert compiled("rouge_1", options).grade_now({"r": "abc"}, Sample("abc")).ok
    assert not compiled("fuzzy_match", options).grade_now({"r": "abc"}, Sample("abc")).ok


class TestCosine:
    async def test_both_texts_are_embedded_by_the_configured_model(self) -> None:
        answer = EmbeddingReply(vectors=((1.0,), (1.0,)), model="m-2", usage=USAGE, key="k")
        embedder = FakeEmbedder(lambda _call: answer)
        grader = compiled("cosine", Options(embedding_model="m"))
        grade = await grader.grade({"r": "b"}, Sample("a"), Ports(embedder=embedder))
        assert not grader.is_pure
        assert embedder.calls[0].model == "m"
        assert embedder.calls[0].texts == ("a", "b")
        assert grade.reward == 1.0
        assert grade.usage == {"m-2": USAGE}
        assert grade.judgements == ("embedding:m-2:k",)

    @pytest.mark.parametrize(
        ("first", "second", "reward"),
        [
            ((1.0, 0.0), (0.0, 1.0), 0.0),
            ((1.0, 1.0), (2.0, 2.0), 1.0),
            ((1.0, 0.0), (-3.0, 0.0), -1.0),
            ((3.0, 4.0), (4.0, 3.0), 0.96),
            ((0.1,) * 3, (0.1,) * 3, 1.0),  # would exceed 1 by rounding
        ],
        ids=range(5),
    )
    async def test_reward_is_the_cosine(
        self, first: tuple[float, ...], second: tuple[float, ...], reward: float
    ) -> None:
        grade = await cosine(first, second)
        assert grade.ok
        assert grade.reward == pytest.approx(reward, abs=1e-12)
        assert -1.0 <= grade.reward <= 1.0

    @pytest.mark.parametrize(
        "vectors",
        [
            (),
            ((1.0,),),
            ((1.0,), (1.0,), (1.0,)),
            ((1.0,), (1.0, 2.0)),
            ((0.0, 0.0), (1.0, 1.0)),
            ((), ()),
            ((math.nan, 1.0), (1.0, 1.0)),
            ((math.inf, 1.0), (1.0, 1.0)),
        ],
        ids=range(8),
    )
    async def test_unusable_vectors_are_an_upstream_failure(
        self, vectors: tuple[tuple[float, ...], ...]
    ) -> None:
        grade = await cosine(*vectors)
        assert grade.reward == 0.0
        assert [failure.code for failure in grade.failures] == ["embedder_unavailable"]
        assert grade.upstream_failure is not None

    async def test_failing_embedder_is_upstream(self) -> None:
        ports = Ports(embedder=FakeEmbedder(lambda _call: EmbedderUnavailableError("down")))
        grade = await compiled("cosine").grade({"r": "b"}, Sample("a"), ports)
        assert [failure.code for failure in grade.failures] == ["embedder_unavailable"]

    async def test_process_without_embedder_says_so(self) -> None:
        grade = await compiled("cosine").grade({"r": "b"}, Sample("a"), Ports())
        assert grade.upstream_failure is not None
        assert grade.upstream_failure.kind == "not_available"

    async def test_missing_variable_asks_nobody(self) -> None:
        embedder = FakeEmbedder(lambda _call: EmbedderUnavailableError("never asked"))
        grade = await compiled("cosine").grade({}, Sample("a"), Ports(embedder=embedder))
        assert [failure.code for failure in grade.failures] == ["invalid_variable"]
        assert embedder.asked == 0
