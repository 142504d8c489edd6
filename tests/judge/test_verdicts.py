"""Replies through engine, adapter and cache: what is scored is kept, what is kept is scored."""

from __future__ import annotations

from typing import Any

import pytest

from graders.engine import compile_grader
from graders.grade import Grade
from graders.ports import Ports
from graders.sample import Sample
from service.judge import JudgeConfig, OpenAIJudge, RetryPolicy
from tests.fakes_upstream import Upstream, completion
from tests.judge.conftest import MakeJudge
from tests.options import options

ONCE = JudgeConfig(retry=RetryPolicy(attempts=1))
INPUT = [{"role": "user", "content": "{{sample.output_text}}"}]
SCORE = {"type": "score_model", "name": "g", "model": "m", "input": INPUT}
LABEL = {
    "type": "label_model",
    "name": "g",
    "model": "m",
    "input": INPUT,
    "labels": ["good", "bad"],
    "passing_labels": ["good"],
}


async def grade(judge: OpenAIJudge, definition: dict[str, Any]) -> Grade:
    grader = compile_grader(definition, options(), purpose="run")
    return await grader.grade({}, Sample("s"), Ports(judge=judge))


@pytest.mark.parametrize("mode", ["json_schema", "json_object", "prompt"])
@pytest.mark.parametrize(
    ("definition", "content", "reward"),
    [
        (SCORE, '{"steps": [], "result": 0.5}', 0.5),
        (SCORE, '{"result": 0.5}', 0.5),
        (SCORE, '{"result": 0.5, "comment": "fine"}', 0.5),
        (SCORE, ' {"steps": "none", "result": 1}\n', 1.0),
        (SCORE, '{"steps": [], "result": 7}', 1.0),
        (SCORE, '{"steps": [], "result": 1e-400}', 0.0),
        (SCORE, '{"steps": [], "result": ' + "9" * 400 + "}", 1.0),
        (SCORE, '{"steps": [], "result": "1"}', None),
        (SCORE, '{"steps": [], "result": true}', None),
        (SCORE, '{"steps": [], "result": null}', None),
        (SCORE, '{"steps": [], "result": NaN}', None),
        (SCORE, '{"steps": [], "result": 1e999}', None),
        (SCORE, '{"steps": [], "result": {"value": 1}}', None),
        (SCORE, '{"RESULT": 1}', None),
        (SCORE, '[{"result": 1}]', None),
        (SCORE, '{"steps":' + "[" * 2000 + "]" * 2000 + ', "result": 1}', None),
        (LABEL, '{"steps": [], "result": "good"}', 1.0),
        (LABEL, '{"result": "bad"}', 0.0),
        (LABEL, '{"steps": [], "result": "Good"}', None),
        (LABEL, '{"steps": [], "result": 1}', None),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
async def test_reply_is_scored_and_kept_or_neither(  # noqa: PLR0917 - a table
    upstream: Upstream,
    make_judge: MakeJudge,
    definition: dict[str, Any],
    content: str,
    reward: float | None,
    mode: str,
) -> None:
    upstream.script = lambda asked: completion(content)
    judge = make_judge(ONCE, structured_output=mode)
    first, second = await grade(judge, definition), await grade(judge, definition)
    assert (first.ok, second.ok) == ((False,) * 2 if reward is None else (True,) * 2)
    assert first.reward == second.reward == (reward or 0.0)
    assert upstream.count == (2 if reward is None else 1)


@pytest.mark.parametrize(
    ("finish_reason", "ok", "asked"),
    [
        *(("stop", True, 1), ("", True, 1), ("eos_token", True, 1)),
        # Gateways that get their JSON by a forced tool call say so here.
        ("tool_calls", True, 1),
        *(("length", False, 2), ("content_filter", False, 2), ("error", False, 2)),
    ],
)
async def test_finish_reasons(
    upstream: Upstream, make_judge: MakeJudge, finish_reason: str, ok: bool, asked: int
) -> None:
    upstream.script = lambda asked: completion(finish_reason=finish_reason)
    judge = make_judge(ONCE)
    found = [await grade(judge, SCORE) for _ in range(2)]
    assert [one.ok for one in found] == [ok, ok]
    assert upstream.count == asked


async def test_completion_that_broke_off_is_tried_again(
    upstream: Upstream, make_judge: MakeJudge
) -> None:
    upstream.script = lambda asked: completion(
        finish_reason="error" if asked.number == 1 else "stop"
    )
    found = await grade(make_judge(JudgeConfig(retry=RetryPolicy(first_pause_s=0.01))), SCORE)
    assert (found.ok, found.reward, upstream.count) == (True, 1.0, 2)


@pytest.mark.parametrize(
    "content",
    [
        '{"steps": [], "result": 1, "result": 0.25}',
        '{"steps": [], "\\u0072esult": 1, "result": 0.25}',
    ],
)
async def test_two_results_are_read_as_hosted_but_not_kept(
    upstream: Upstream, make_judge: MakeJudge, content: str
) -> None:
    upstream.script = lambda asked: completion(content)
    judge = make_judge(ONCE)
    assert [(await grade(judge, SCORE)).reward for _ in range(2)] == [0.25, 0.25]
    assert upstream.count == 2
