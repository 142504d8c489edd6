"""What a data set will take, and which judges have an end."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date

import pytest

from graders.engine import compile_grader
from graders.errors import EmbedderUnavailableError
from graders.ports import EmbeddingCall, JudgeCall, Ports
from graders.sample import Sample
from service.judge import (
    CallCollector,
    JudgeContext,
    ModelEstimate,
    Prediction,
    Price,
    Route,
    Routes,
    judging,
    known_shutdowns,
    listed_shutdowns,
    shutdown_warning,
)
from service.judge.client import ListedModel
from service.judge.estimate import prompt_tokens, text_tokens
from tests.judge.calls import call
from tests.options import options


def predict(calls: Iterable[JudgeCall | EmbeddingCall], routes: Routes) -> list[ModelEstimate]:
    prediction = Prediction(routes)
    for asked in calls:
        prediction.add(asked)
    return prediction.models


@pytest.mark.parametrize(
    ("text", "tokens"), [("", 0), ("four", 1), ("a" * 400, 100), ("東京タワー", 5), ("é" * 3, 3)]
)
def test_text(text: str, tokens: int) -> None:
    assert text_tokens(text) == tokens


def test_media_have_their_own_price() -> None:
    parts = [
        {"type": "text", "text": "a" * 40},
        {"type": "image_url", "image_url": {"url": "u"}},
        {"type": "input_audio", "input_audio": {"data": "A" * 16_000, "format": "wav"}},
    ]
    plain = prompt_tokens(call(messages=[{"role": "user", "content": "a" * 40}]))
    assert prompt_tokens(call(messages=[{"role": "user", "content": parts}])) == plain + 1_110


def test_equal_questions_are_paid_once() -> None:
    routes = Routes(
        routes=(
            Route(name="a", models=("gpt-*",), price=Price(input=2.0, output=8.0)),
            Route(name="b", models=("o3",), api="responses", assumed_completion_tokens=50),
        )
    )
    limited = {"max_completions_tokens": 10}
    found = predict(
        [
            call("one"),
            call("one"),
            call("two", sampling_params=limited),
            call("x", model="o3", sampling_params=limited),
            call("x", model="unknown"),
        ],
        routes,
    )
    gpt, o3, unknown = found
    assert (gpt.calls, gpt.distinct, gpt.completion_tokens) == (3, 2, 510)
    assert gpt.dollars == pytest.approx((gpt.prompt_tokens * 2 + 510 * 8) / 1e6)
    assert (o3.distinct, o3.completion_tokens, o3.dollars) == (1, 10, None)
    assert (unknown.upstream_model, unknown.calls, unknown.distinct) == (None, 1, 0)


async def test_collector_notes_what_a_grader_would_ask() -> None:
    grader = compile_grader(
        {
            "type": "multi",
            "name": "both",
            "graders": {
                name: {
                    "type": "score_model",
                    "name": name,
                    "model": name,
                    "input": [{"role": "user", "content": "{{sample.output_text}}"}],
                }
                for name in ("a", "b")
            },
            "calculate_output": "a + b",
        },
        options(),
        purpose="run",
    )
    calls: list[JudgeCall | EmbeddingCall] = []
    ports = Ports(judge=CallCollector(calls.append))
    grade = await grader.grade({}, Sample("said"), ports)
    assert not grade.ok
    assert {asked.model for asked in calls} == {"a", "b"}
    assert len(predict(calls, Routes(routes=()))) == 2
    calls.clear()
    with judging(JudgeContext(model="c", sample_index=7)):
        await grader.grade({}, Sample("said"), ports)
    drawn = [(one.model, one.sample_index) for one in calls if isinstance(one, JudgeCall)]
    assert drawn == [("c", 7), ("c", 7)]


async def test_embeddings_are_counted_by_text() -> None:
    routes = Routes(routes=(Route(name="a", price=Price(input=1.0)),))
    calls: list[JudgeCall | EmbeddingCall] = []
    collector = CallCollector(calls.append)
    for texts in (("a" * 40, "reference"), ("b" * 40, "reference")):
        with pytest.raises(EmbedderUnavailableError):
            await collector.embed(EmbeddingCall(model="e", texts=texts))
    (found,) = predict(calls, routes)
    assert (found.calls, found.distinct, found.completion_tokens) == (4, 3, 0)
    assert found.prompt_tokens == 10 + 10 + 3
    assert found.dollars == pytest.approx(23e-6)
    assert predict(calls, Routes(routes=()))[0].distinct == 0


class TestShutdown:
    def test_table_is_dated_and_knows_every_documented_judge(self) -> None:
        table = known_shutdowns()
        assert table.as_of == date(2026, 11, 20)
        for model in ("gpt-4o-2024-08-06", "o3-2025-04-16", "o1-2024-12-17", "gpt-4.1-mini"):
            assert model in table.models
        assert table.models["o4-mini"] == date(2026, 10, 23)

    def test_sentence_says_when_and_what_instead(self) -> None:
        table, today = known_shutdowns(), date(2026, 11, 20)
        assert shutdown_warning("future-model", today, table) is None
        assert shutdown_warning("o3", today, table) == ("judge model 'o3' shuts down on 2026-12-11")
        assert shutdown_warning("o1", today, table, successors={"o1": "new"}) == (
            "judge model 'o1' shut down on 2026-10-23; routes send it to 'new'"
        )
        named = shutdown_warning("gpt-4o-mini", today, table)
        assert named is not None
        assert named.endswith("2027-01-14; its vendor names 'gpt-6-luna'")

    def test_upstreams_own_dates_come_first(self) -> None:
        listed = listed_shutdowns(
            [ListedModel("o3", "2028-01-01T00:00:00Z"), ListedModel("x", "soon"), ListedModel("y")]
        )
        assert listed == {"o3": date(2028, 1, 1)}
        sentence = shutdown_warning("o3", date(2026, 1, 1), known_shutdowns(), listed=listed)
        assert sentence is not None
        assert "2028-01-01" in sentence
