"""Recorded replies: each answers exactly the question of its part."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from graders.grade import Grade
from graders.ports import JudgeCall, JudgeReply, Ports
from graders.sample import Sample
from service.workshop.check import grade_example
from service.workshop.examples import ExamplesError, read_examples
from service.workshop.recorded import JudgeRecorder
from tests.fakes import FakeJudge, reply, verdict
from tests.workshop.world import COSINE, ENDPOINT, EXACT, JUDGE, LABEL, multi, subject, terms

CALL = JudgeCall(model="m", messages=[], sampling_params={}, schema_name="s", schema={})


async def graded(folder: Path, document: dict[str, Any], **fields: Any) -> Grade:
    row = {"item": {"answer": "Paris", "question": "?"}, "model_sample": "x", "reward": 0, **fields}
    one = subject(folder / "grader", document, row)
    assert one.grader is not None
    (example,) = read_examples(one.examples_file, one.grader).values()
    grade, is_judged = await grade_example(one, example, terms())
    assert is_judged == ("judge" in fields)
    return grade


@pytest.mark.parametrize(
    ("recorded", "reward", "failure"),
    [
        ({"result": 7}, 7.0, []),
        ({"result": 7, "steps": [{"description": "d", "conclusion": "c"}]}, 7.0, []),
        ({"content": '{"steps": [], "result": 8}'}, 8.0, []),
        ({"content": "8 of 10"}, 0.0, ["model_parse"]),
        ({"refusal": "No."}, 0.0, ["model_refusal"]),
        ({"content": "", "finish_reason": "length"}, 0.0, ["model_exceeded_max_tokens"]),
        ({"result": 7, "finish_reason": "content_filter"}, 0.0, ["model_refusal"]),
    ],
)
async def test_recorded_reply_is_scored_as_a_real_one(
    tmp_path: Path, recorded: dict[str, Any], reward: float, failure: list[str]
) -> None:
    grade = await graded(tmp_path, JUDGE, judge={"": recorded})
    assert grade.reward == reward
    assert [each.code for each in grade.failures] == failure


async def test_parts_get_their_own_replies(tmp_path: Path) -> None:
    document = multi("a * 10 + b", a=JUDGE, b=LABEL)
    judge = {"a": {"result": 3}, "b": {"result": "good"}}
    grade = await graded(tmp_path, document, judge=judge)
    assert grade.reward == 31.0


async def test_missing_reply_is_a_failure_and_not_a_reward(tmp_path: Path) -> None:
    document = multi("a + b", a=JUDGE, b=LABEL)
    grade = await graded(tmp_path, document, judge={"b": {"result": "good"}})
    (failure,) = grade.failures
    assert (failure.code, failure.part, failure.kind) == ("judge_unavailable", "a", "not_recorded")


async def test_different_replies_to_one_question_are_refused(tmp_path: Path) -> None:
    document = multi("a + b", a=JUDGE, b=JUDGE)
    with pytest.raises(ExamplesError, match="asks what another part asks"):
        await graded(tmp_path, document, judge={"a": {"result": 3}, "b": {"result": 4}})


async def test_equal_replies_to_one_question_are_fine(tmp_path: Path) -> None:
    document = multi("a + b", a=JUDGE, b=JUDGE)
    grade = await graded(tmp_path, document, judge={"a": {"result": 3}, "b": {"result": 3}})
    assert grade.reward == 6.0


async def test_endpoints_and_embeddings_are_recorded_too(tmp_path: Path) -> None:
    grade = await graded(tmp_path, ENDPOINT, endpoint={"": {"score": 0.25}})
    assert grade.reward == 0.25
    grade = await graded(tmp_path, COSINE, embedding={"": [[1, 0], [0.6, 0.8]]})
    assert grade.reward == pytest.approx(0.6)


async def test_recorder_keeps_what_the_judge_replied() -> None:
    replies = iter([verdict(3), reply(None, refusal="No."), reply("{", finish_reason="length")])
    recorder = JudgeRecorder(FakeJudge(lambda _call: next(replies)))
    calls = {name: _call(name) for name in "abc"}
    for call in calls.values():
        assert isinstance(await recorder.judge(call), JudgeReply)
    assert recorder.recorded({**calls, "never": _call("never")}).judge == {
        "a": {"content": '{"steps": [], "result": 3}'},
        "b": {"refusal": "No."},
        "c": {"content": "{", "finish_reason": "length"},
    }


async def test_recorder_without_a_judge_says_so() -> None:
    from graders.errors import JudgeUnavailableError

    with pytest.raises(JudgeUnavailableError, match="no judge"):
        await JudgeRecorder(Ports().judge).judge(CALL)


def _call(name: str) -> JudgeCall:
    return JudgeCall(model=name, messages=[], sampling_params={}, schema_name="s", schema={})


def test_pure_parts_ask_nothing() -> None:
    from graders.engine import compile_grader
    from tests.workshop.world import OPTIONS

    grader = compile_grader(EXACT, OPTIONS, purpose="store")
    assert grader.requests({}, Sample("x")) == {}
