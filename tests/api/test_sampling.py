"""Ensembles on the native routes."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from graders.errors import JudgeUnavailableError
from service.judge import current_context
from tests.api.world import lines
from tests.fakes import MODEL, FakeJudge, verdict

SCORE = "/v1/graders/{}/versions/latest/score"
ITEM = {"question": "q", "answer": "a"}
ROW = {"item": ITEM, "model_sample": "text"}


@pytest.fixture
def judge() -> FakeJudge:
    """A judge that gives 0.25 for the first draw, 0.75 for the second, then nothing."""

    def reply(_: Any) -> Any:
        index = current_context().sample_index
        if index > 1:
            return JudgeUnavailableError("away", retry_after_s=2.0)
        return verdict((0.25, 0.75)[index])

    return FakeJudge(reply)


async def post(api: httpx.AsyncClient, name: str, body: Any, path: str = "") -> httpx.Response:
    return await api.post(SCORE.format(name) + path, json=body)


async def test_one_row_has_its_draws(api: httpx.AsyncClient) -> None:
    answer = await post(api, "judged", {**ROW, "sampling": {"n": 2}}, "?debug=true")
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert (found["reward"], found["ok"], found["passed"]) == (0.5, True, True)
    assert found["token_usage"][MODEL]["total_tokens"] == 240
    assert found["signature"].endswith("|ensemble:mean")
    assert set(found["diagnostics"]) == {"draws[0]", "draws[1]"}
    assert found["ensemble"] == {
        "method": "mean",
        "spread": pytest.approx(0.35355, abs=1e-5),
        "minimum": 0.25,
        "maximum": 0.75,
        "draws": [
            {"model": None, "sample_index": 0, "reward": 0.25, "ok": True},
            {"model": None, "sample_index": 1, "reward": 0.75, "ok": True},
        ],
    }


async def test_draws_count_on_from_the_header_and_name_their_models(
    api: httpx.AsyncClient,
) -> None:
    body = {**ROW, "sampling": {"models": ["a", "b"], "method": "majority"}}
    headers = {"x-gradekeeper-sample-index": "1"}
    found = (await api.post(SCORE.format("judged"), json=body, headers=headers)).json()
    draws = found["ensemble"]["draws"]
    assert [(one["model"], one["sample_index"]) for one in draws] == [("a", 1), ("b", 1)]
    assert found["reward"] == 0.75


async def test_failed_draws_are_shown_and_left_out(api: httpx.AsyncClient) -> None:
    found = (await post(api, "judged", {**ROW, "sampling": {"n": 3}})).json()
    assert found["reward"] == 0.5
    assert [one["ok"] for one in found["ensemble"]["draws"]] == [True, True, False]
    assert found["ensemble"]["draws"][2]["error"] == {
        "code": "judge_unavailable",
        "message": "away",
        "flag": "model_grader_server_error",
        "upstream": True,
        "retryable": True,
        "retry_after_s": 2.0,
    }
    too_few = await post(api, "judged", {**ROW, "sampling": {"n": 3, "at_least": 3}})
    assert too_few.status_code == 503
    assert too_few.headers["retry-after"] == "2"


async def test_parts_of_a_multi_are_combined_like_the_whole(api: httpx.AsyncClient) -> None:
    found = (await post(api, "mixed", {**ROW, "sampling": {"n": 2}})).json()
    assert found["sub_rewards"] == {"same": 0.0, "judged": 0.5}
    assert found["reward"] == 0.25


async def test_a_failed_draw_of_a_multi_shows_no_reward(api: httpx.AsyncClient) -> None:
    row = {**ROW, "model_sample": "a", "sampling": {"n": 3}}
    draws = (await post(api, "mixed", row)).json()["ensemble"]["draws"]
    assert [one["reward"] for one in draws] == [0.625, 0.875, 0.0]  # the formula gives 0.5


async def test_batch_samples_every_row(api: httpx.AsyncClient) -> None:
    rows = [ROW, {**ROW, "model_sample": "other"}]
    body = {"rows": rows, "sampling": {"n": 2, "method": "median"}}
    found = (await post(api, "judged", body, "/batch")).json()
    assert [result["reward"] for result in found["results"]] == [0.5, 0.5]
    assert [len(r["ensemble"]["draws"]) for r in found["results"]] == [2, 2]
    assert found["results"][0]["judgements"][-1] == "ensemble:median"
    assert found["summary"]["ok"] == 2
    body = {"rows": rows, "sampling": {"n": 3, "at_least": 3}}
    found = (await post(api, "judged", body, "/batch")).json()
    assert [result["error"]["retryable"] for result in found["results"]] == [True, True]


async def test_large_batch_samples_too(api: httpx.AsyncClient) -> None:
    row = {"item": {**ITEM, "question": "q" * 2_200_000}, "model_sample": "t"}
    body = {"rows": [row, row], "sampling": {"n": 2}}
    found = (await post(api, "judged", body, "/batch")).json()
    assert [result["reward"] for result in found["results"]] == [0.5, 0.5]


@pytest.mark.parametrize("name", ["exact", "parts", "coded", "meaning"])
@pytest.mark.parametrize("path", ["", "/batch"])
async def test_graders_without_a_judge_refuse(api: httpx.AsyncClient, name: str, path: str) -> None:
    body = {"rows": [ROW]} if path else ROW
    refused = await post(api, name, {**body, "sampling": {}}, path)
    assert refused.status_code == 400
    problem = refused.json()
    assert problem["detail"].startswith("sampling is for graders that ask a judge model; this ")
    assert problem["errors"][0]["pointer"] == "/sampling"


@pytest.mark.parametrize(
    "sampling",
    [
        {"n": 0},
        {"n": 65},
        {"method": "best"},
        {"models": ["a", "a"]},
        {"n": 2, "at_least": 3},
        {"draws": 2},
        [],
    ],
)
async def test_what_cannot_be_meant_is_refused(api: httpx.AsyncClient, sampling: Any) -> None:
    refused = await post(api, "judged", {**ROW, "sampling": sampling})
    assert refused.status_code == 400
    assert refused.json()["errors"][0]["pointer"].startswith("/sampling")


async def test_rows_and_lines_have_no_sampling_of_their_own(api: httpx.AsyncClient) -> None:
    row = {**ROW, "sampling": {"n": 2}}
    assert (await post(api, "judged", {"rows": [row]}, "/batch")).status_code == 400
    answer = await api.post(
        SCORE.format("judged") + "/batch",
        content=lines([row]),
        headers={"content-type": "application/x-ndjson"},
    )
    assert b'"code":"invalid_row"' in answer.content


async def test_plain_answers_say_nothing_of_ensembles(api: httpx.AsyncClient) -> None:
    assert "ensemble" not in (await post(api, "judged", ROW)).json()
    batch = (await post(api, "judged", {"rows": [ROW]}, "/batch")).json()
    assert "ensemble" not in batch["results"][0]
