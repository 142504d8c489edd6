"""The same grades without a server."""

import asyncio
import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from graders.errors import JudgeUnavailableError
from graders.ports import JudgeCall, JudgeReply, Ports
from service.trainers import in_process
from service.trainers.errors import RefusedError
from service.trainers.reward import make
from service.trainers.rows import Result
from service.trainers.source import Source
from tests.trainers.servers import DEFINITIONS, KEY, definition

TEXTS = ["Paris", "Paris, France", '{"answer": "Paris"}', "", "é\ud800"]


class FakeJudge:
    """Answers with a rating, slowly, or not at all."""

    def __init__(self, pause_s: float = 0.0) -> None:
        self.pause_s = pause_s
        self.under_way = 0
        self.cancelled = 0

    async def judge(self, call: JudgeCall) -> JudgeReply:
        text = call.messages[0]["content"]
        if "outage" in text:
            raise JudgeUnavailableError("down", retryable=True, retry_after_s=1.0)
        try:
            await asyncio.sleep(self.pause_s if "slow" in text else 0)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return JudgeReply(content='{"result": 0.5}', model="m")


@pytest.mark.parametrize("name", sorted(set(DEFINITIONS) - {"judged"}))
def test_results_are_those_of_a_server(url: str, name: str) -> None:
    items = [{"answer": "Paris", "prompt": "p", "ground_truth": "Paris"}] * len(TEXTS)
    remote = make({"url": url, "key": KEY, "grader": f"{name}@1"}).grade(items, TEXTS)
    local = make({"definition": definition(name)}).grade(items, TEXTS)
    assert [_seen(result) for result in local] == [_seen(result) for result in remote]


def _seen(result: Result) -> Any:
    code = result.failure and (result.failure.code, result.failure.outage, result.failure.message)
    return result.reward, result.passed, dict(result.sub_rewards), code


def test_conversations_reach_the_grader() -> None:
    call = {"function": {"name": "lookup", "arguments": {}}}
    message = {"role": "assistant", "content": "", "tool_calls": [call]}
    reward = make({"definition": definition("tools")})
    (result,) = reward.grade([{"answer": "lookup"}], [[message]])
    assert result.reward == 1.0


async def test_it_can_be_awaited() -> None:
    reward = make({"definition": definition("capital")})
    assert (await reward.grade_async([{"answer": "a"}], ["a"]))[0].reward == 1.0


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"type": "string_check"}, "operation"),
        ({"type": "unknown"}, "invalid_definition"),
        ([1], "invalid_definition"),
        (definition("judged"), "use url, or give ports"),
    ],
)
def test_definitions_that_cannot_be_used_are_refused(tmp_path: Path, given: Any, said: str) -> None:
    file = tmp_path / "grader.json"
    file.write_text(json.dumps(given))
    with pytest.raises(RefusedError, match=said):
        make({"definition": file})


@pytest.mark.parametrize("text", ["", "{", None])
def test_files_that_cannot_be_read_are_refused(tmp_path: Path, text: str | None) -> None:
    file = tmp_path / "grader.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(RefusedError, match="no definition can be read"):
        make({"definition": file})


def judged(judge: FakeJudge, **settings: Any) -> Any:
    where = {"definition": definition("judged"), "ports": Ports(judge=judge), **settings}
    return make(where)  # type: ignore[arg-type] # a test's settings


def test_a_judge_can_be_brought_along() -> None:
    reward = judged(FakeJudge())
    given = reward.grade([{}] * 3, ["a", "outage", "b"])
    assert [result.reward for result in given] == [0.5, None, 0.5]
    assert (given[1].failure.outage, given[1].failure.retry_after_s) == (True, 1.0)
    assert reward.grade([], []) == []


def test_threads_and_event_loops_share_the_judges_loop() -> None:
    reward = judged(FakeJudge())
    with ThreadPoolExecutor(8) as threads:
        work = [threads.submit(reward.grade, [{}], ["x"]) for _ in range(20)]
        assert [one.result()[0].reward for one in work] == [0.5] * 20
    for _ in range(2):
        assert asyncio.run(reward.grade_async([{}], ["x"]))[0].reward == 0.5
    assert len(in_process.InProcess(reward.source)._loops) == 0


def test_rows_that_miss_the_deadline_are_outages_and_cancelled() -> None:
    judge = FakeJudge(pause_s=30)
    started = time.monotonic()
    given = judged(judge, deadline_s=0.3).grade([{}] * 2, ["fast", "slow"])
    assert time.monotonic() - started < 2
    assert given[0].reward == 0.5
    assert (given[1].failure.code, given[1].failure.outage) == ("deadline_exceeded", True)
    assert judge.cancelled == 1


async def test_a_cancelled_call_cancels_its_judges() -> None:
    judge = FakeJudge(pause_s=30)
    task = asyncio.create_task(judged(judge).grade_async([{}], ["slow"]))
    await asyncio.sleep(0.1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    ends = time.monotonic() + 2
    while not judge.cancelled and time.monotonic() < ends:  # noqa: ASYNC110 - another loop's task
        await asyncio.sleep(0.01)
    assert judge.cancelled == 1


def test_meteor_says_how_to_get_wordnet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert in_process._wordnet(tmp_path)[0] is None
    meteor = {
        "type": "text_similarity",
        "evaluation_metric": "meteor",
        "input": "a",
        "reference": "a",
    }
    monkeypatch.setattr(in_process, "_wordnet", lambda *_: (None, "get it there"))
    with pytest.raises(RefusedError, match="get it there"):
        in_process.InProcess(Source.of({"definition": meteor}))
