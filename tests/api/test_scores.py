"""Native scoring: one row, and many rows as one JSON document."""

from __future__ import annotations

import asyncio
import json
import math
import socket
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from graders.errors import (
    BudgetExceededError,
    JudgeUnavailableError,
    OverloadedError,
    SandboxUnavailableError,
    UpstreamError,
)
from graders.ports import JudgeCall, JudgeReply, Ports, SandboxResult
from service.app import create_app
from service.edge import Edge
from service.grading import next_block
from tests.api.world import MIXED, calling, metric, rows, serving, settings, wait_until
from tests.fakes import MODEL, FakeJudge, FakeSandbox, prompt, verdict

RIGHT = {"item": {"answer": "Paris"}, "model_sample": "Paris"}
WRONG = {"item": {"answer": "Paris"}, "model_sample": "Rome"}
ASKED = {"item": {"question": "capital?"}, "model_sample": "Paris"}
PROBLEM = "urn:gradekeeper:problem:"


def path(name: str, version: str = "latest", *, batch: bool = False) -> str:
    return f"/v1/graders/{name}/versions/{version}/score{'/batch' if batch else ''}"


def app_with_judge(definitions: Path, judge: FakeJudge, **changes: Any) -> Edge:
    return create_app(settings(definitions, **changes), ports=Ports(judge=judge))


class TestScore:
    async def test_says_who_graded_and_how(self, api: httpx.AsyncClient) -> None:
        answer = (await api.post(path("exact", "1"), json=RIGHT)).json()
        digest = answer["digest"]
        seconds = answer.pop("execution_time")
        assert 0 <= seconds < 5
        assert answer.pop("errors") is None
        assert answer == {
            "grader": "exact",
            "version": 1,
            "digest": digest,
            "signature": f"exact@1|{digest}|engine:1|render:json",
            "pass_threshold": 1.0,
            "threshold_source": "default",
            "reward": 1.0,
            "ok": True,
            "passed": True,
            "error": None,
            "sub_rewards": {},
            "token_usage": {},
            "sampled_model_name": None,
            "cost_usd": None,
        }
        assert digest.startswith("sha256:")

    @pytest.mark.parametrize(
        ("asked", "version"),
        [("1", 1), ("2", 2), ("latest", 2), ("stable", 1)],
    )
    async def test_names_the_concrete_version(
        self, api: httpx.AsyncClient, asked: str, version: int
    ) -> None:
        for batch, body in ((False, RIGHT), (True, {"rows": [RIGHT]})):
            answer = (await api.post(path("exact", asked, batch=batch), json=body)).json()
            assert answer["version"] == version
            assert answer["signature"].startswith(f"exact@{version}|{answer['digest']}|")

    @pytest.mark.parametrize(
        ("name", "body", "reward", "passed"),
        [
            pytest.param("exact", WRONG, 0.0, False, id="wrong"),
            pytest.param("overlap", RIGHT, 1.0, True, id="similar"),
            pytest.param("parts", RIGHT, 1.0, True, id="multi"),
            pytest.param("judged", ASKED, 0.75, True, id="judged"),
            pytest.param("labelled", RIGHT, 1.0, True, id="labelled"),
            pytest.param("coded", RIGHT, 0.5, True, id="coded"),
            pytest.param("meaning", RIGHT, 1.0, True, id="embedded"),
            pytest.param("remote", RIGHT, 0.25, False, id="remote"),
            pytest.param(
                "exact",
                {"item": {"answer": "Paris"}, "sample": {"output_text": "Paris"}},
                1.0,
                True,
                id="sample object",
            ),
        ],
    )
    async def test_gives_the_reward(
        self, api: httpx.AsyncClient, name: str, body: dict[str, Any], reward: float, passed: bool
    ) -> None:
        response = await api.post(path(name), json=body)
        answer = response.json()
        assert response.status_code == 200
        assert answer["reward"] == reward
        assert answer["ok"] is True
        assert answer["passed"] is passed

    async def test_the_signature_names_the_judge_that_answered(
        self, api: httpx.AsyncClient
    ) -> None:
        answer = (await api.post(path("judged"), json=ASKED)).json()
        assert answer["signature"].endswith(f"|judge:{MODEL}:reply-key")
        assert answer["sampled_model_name"] == MODEL
        assert answer["token_usage"][MODEL]["total_tokens"] == 120

    async def test_diagnostics_come_only_with_debug(self, api: httpx.AsyncClient) -> None:
        silent = (await api.post(path("coded"), json=RIGHT)).json()
        told = (await api.post(path("coded"), params={"debug": "true"}, json=RIGHT)).json()
        assert "diagnostics" not in silent
        assert told["diagnostics"][""]["stdout"] == "hello from the grader"


class TestFailures:
    @pytest.mark.parametrize(
        ("name", "body", "code", "flag"),
        [
            pytest.param(
                "exact",
                {"model_sample": "x"},
                "invalid_variable",
                "invalid_variable_error",
                id="missing variable",
            ),
            pytest.param("quotient", WRONG, "formula_evaluation", "other_error", id="division"),
            pytest.param("overflow", RIGHT, "formula_evaluation", "other_error", id="overflow"),
            pytest.param(
                "overlap",
                {"item": {"answer": "a"}, "model_sample": "x" * 100_001},
                "input_too_long",
                "other_error",
                id="too long for the metric",
            ),
        ],
    )
    async def test_of_the_grader_are_200_and_not_ok(
        self, api: httpx.AsyncClient, name: str, body: dict[str, Any], code: str, flag: str
    ) -> None:
        response = await api.post(path(name), json=body)
        answer = response.json()
        assert response.status_code == 200
        assert (answer["reward"], answer["ok"], answer["passed"]) == (0.0, False, False)
        assert answer["error"]["code"] == code
        assert answer["error"]["flag"] == flag
        assert not answer["error"].get("retryable")
        assert [key for key, value in answer["errors"].items() if value is True] == [flag]

    async def test_of_user_code_are_200_and_not_ok(self, definitions: Path) -> None:
        sandbox = FakeSandbox(lambda _: SandboxResult(outcome="timeout", details="over 2 s"))
        app = create_app(settings(definitions), ports=Ports(sandbox=sandbox))
        async with calling(app) as client:
            answer = (await client.post(path("coded"), json=RIGHT)).json()
        assert answer["error"]["code"] == "python_runtime"
        assert answer["ok"] is False

    @pytest.mark.parametrize(
        ("error", "expected"),
        [
            pytest.param(
                JudgeUnavailableError("the judge answered 500", retry_after_s=7.4),
                (503, "upstream-unavailable", "7", True),
                id="judge down",
            ),
            pytest.param(
                JudgeUnavailableError("no such model", retryable=False),
                (503, "upstream-unavailable", "1", False),
                id="judge refuses",
            ),
            pytest.param(
                BudgetExceededError("the budget is spent", retry_after_s=3600),
                (429, "budget-exceeded", "3600", True),
                id="budget",
            ),
            pytest.param(
                OverloadedError("64 calls wait"), (429, "overloaded", "1", True), id="overloaded"
            ),
        ],
    )
    async def test_of_something_outside_ask_the_caller_to_come_back(
        self, definitions: Path, error: UpstreamError, expected: tuple[int, str, str, bool]
    ) -> None:
        status, kind, wait, retryable = expected
        app = app_with_judge(definitions, FakeJudge(lambda _: error))
        async with calling(app) as client:
            response = await client.post(path("judged"), json=ASKED)
            mixed = await client.post(path("mixed"), json={**ASKED, "item": {"answer": "x"}})
        problem = response.json()
        assert response.status_code == status
        assert response.headers["content-type"] == "application/problem+json"
        assert response.headers["retry-after"] == wait
        assert problem["type"] == PROBLEM + kind
        assert problem.get("retryable", False) is retryable
        assert "reward" not in problem
        assert mixed.status_code == 200  # the judge was never asked: its question lacks a variable

    async def test_a_failed_part_leaves_no_reward_on_any_native_route(
        self, api: httpx.AsyncClient
    ) -> None:
        """The formula gives 0.5, which only the OpenAI-compatible route answers."""
        row = {"item": {"answer": "Paris"}, "model_sample": "Paris"}  # the judge's item.question
        one = (await api.post(path("mixed"), json=row)).json()
        batch = (await api.post(path("mixed", batch=True), json={"rows": [row]})).json()
        headers = {"content-type": "application/x-ndjson"}
        content = json.dumps(row).encode()
        stream = await api.post(path("mixed", batch=True), content=content, headers=headers)
        for found in (one, batch["results"][0], json.loads(stream.text.split("\n")[0])):
            assert (found["reward"], found["ok"]) == (0.0, False)
            assert found["sub_rewards"] == {"same": 1.0, "judged": 0.0}
        run = {**row, "grader": MIXED}
        hosted = await api.post("/v1/fine_tuning/alpha/graders/run", json=run)
        assert hosted.json()["reward"] == 0.5

    async def test_a_failing_part_is_no_reward_for_the_whole(self, definitions: Path) -> None:
        app = app_with_judge(definitions, FakeJudge(lambda _: JudgeUnavailableError("down")))
        body = {"item": {"answer": "Paris", "question": "?"}, "model_sample": "Paris"}
        async with calling(app) as client:
            response = await client.post(path("mixed"), json=body)
        assert response.status_code == 503

    @pytest.mark.parametrize("name", ["judged", "labelled", "coded", "meaning", "remote"])
    async def test_a_missing_port_is_501(self, bare: httpx.AsyncClient, name: str) -> None:
        body = {"item": {"answer": "a", "question": "q"}, "model_sample": "x"}
        response = await bare.post(path(name), json=body)
        assert response.status_code == 501
        assert response.json()["type"] == PROBLEM + "not-available"
        assert "not available here" in response.json()["detail"]
        assert "retry-after" not in response.headers

    @pytest.mark.parametrize(
        ("body", "pointer"),
        [
            pytest.param({}, None, id="no sample"),
            pytest.param({"model_sample": "x", "sample": {}}, None, id="both samples"),
            pytest.param({"model_sample": None, "sample": None}, None, id="null samples"),
            pytest.param({"sample": {"output_text": 7}}, None, id="sample of the wrong shape"),
            pytest.param({"sample": {"choices": {}}}, None, id="choices of the wrong shape"),
            pytest.param({"model_sample": 7}, "/model_sample", id="number for a text"),
            pytest.param({"model_sample": "x", "item": []}, "/item", id="array for an object"),
            pytest.param({"model_sample": "x", "items": {}}, "/items", id="unknown field"),
        ],
    )
    async def test_of_the_request_are_400_with_the_place(
        self, api: httpx.AsyncClient, body: dict[str, Any], pointer: str | None
    ) -> None:
        response = await api.post(path("exact"), json=body)
        problem = response.json()
        assert response.status_code == 400
        assert response.headers["content-type"] == "application/problem+json"
        assert problem["status"] == 400
        assert problem["request_id"] == response.headers["x-request-id"]
        if pointer is not None:
            assert [finding["pointer"] for finding in problem["errors"]] == [pointer]

    @pytest.mark.parametrize(
        ("name", "version", "kind", "detail"),
        [
            ("nobody", "1", "unknown-grader", "known graders: coded, exact"),
            ("exact", "3", "unknown-version", "known: 1, stable, 2, latest"),
            ("exact", "01", "unknown-version", "no version '01'"),
            ("exact", "newest", "unknown-version", "no version 'newest'"),
        ],
    )
    async def test_unknown_graders_and_versions_are_404_and_list_the_known(
        self, api: httpx.AsyncClient, name: str, version: str, kind: str, detail: str
    ) -> None:
        for batch in (False, True):
            response = await api.post(path(name, version, batch=batch), json=RIGHT)
            assert response.status_code == 404
            assert response.json()["type"] == PROBLEM + kind
            assert detail in response.json()["detail"]

    async def test_of_ours_are_500_without_internals(
        self, definitions: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        app = app_with_judge(definitions, FakeJudge(lambda _: 1 / 0))  # type: ignore[arg-type,return-value]
        async with calling(app) as client:
            native = await client.post(path("judged"), json=ASKED)
            many = await client.post(path("judged", batch=True), json={"rows": [ASKED]})
        assert native.status_code == many.status_code == 500
        assert "ZeroDivisionError" not in native.text + many.text
        assert native.json()["request_id"] == native.headers["x-request-id"]
        assert "ZeroDivisionError" in caplog.text


class TestBatch:
    async def test_keeps_the_order_of_the_rows(self, api: httpx.AsyncClient) -> None:
        sent = rows(2_000)
        answer = (await api.post(path("exact", "1", batch=True), json={"rows": sent})).json()
        expected = [1.0 if index % 3 == 0 else 0.0 for index in range(2_000)]
        assert [row["reward"] for row in answer["results"]] == expected
        assert "index" not in answer["results"][0]
        assert answer["summary"] == {
            "rows": 2_000,
            "ok": 2_000,
            "failed": 0,
            "passed": 667,
            "mean_reward": 667 / 2_000,
        }

    async def test_keeps_the_order_when_answers_come_in_another(self, definitions: Path) -> None:
        async def slow_first(call: JudgeCall) -> JudgeReply:
            number = int(prompt(call).split()[1])
            await asyncio.sleep((20 - number) / 1000)
            return verdict(number / 20)

        judge = FakeJudge(slow_first)
        sent = [{"item": {"question": "?"}, "model_sample": str(n)} for n in range(20)]
        async with calling(app_with_judge(definitions, judge)) as client:
            answer = (await client.post(path("judged", batch=True), json={"rows": sent})).json()
        assert [row["reward"] for row in answer["results"]] == [n / 20 for n in range(20)]
        assert judge.most_under_way > 1

    async def test_asks_no_more_at_once_than_set(self, definitions: Path) -> None:
        async def pause(_: JudgeCall) -> JudgeReply:
            await asyncio.sleep(0.002)
            return verdict(1)

        judge = FakeJudge(pause)
        app = app_with_judge(definitions, judge, max_concurrent_rows=3)
        async with calling(app) as client:
            await client.post(path("judged", batch=True), json={"rows": [ASKED] * 20})
        assert judge.most_under_way == 3
        assert judge.asked == 20

    async def test_of_no_rows_has_no_mean(self, api: httpx.AsyncClient) -> None:
        for name in ("exact", "judged"):
            answer = (await api.post(path(name, batch=True), json={"rows": []})).json()
            assert answer["results"] == []
            assert answer["summary"]["mean_reward"] is None
            assert answer["summary"]["rows"] == 0

    async def test_a_failing_row_leaves_the_others_unharmed(self, api: httpx.AsyncClient) -> None:
        body = {"rows": [RIGHT, {"model_sample": "x"}, RIGHT]}
        answer = (await api.post(path("exact", "1", batch=True), json=body)).json()
        assert [row["ok"] for row in answer["results"]] == [True, False, True]
        assert answer["results"][1]["error"]["code"] == "invalid_variable"
        summary = answer["summary"]
        assert (summary["ok"], summary["failed"], summary["mean_reward"]) == (2, 1, 1.0)

    async def test_an_upstream_failure_is_retryable_and_leaves_the_others_unharmed(
        self, definitions: Path
    ) -> None:
        down = SandboxUnavailableError("no worker", retry_after_s=3.0)
        sandbox = FakeSandbox(
            lambda run: down if b"bad" in run.payload else SandboxResult(outcome="value", value=0.5)
        )
        app = create_app(settings(definitions), ports=Ports(sandbox=sandbox))
        sent = [{"model_sample": text} for text in ("good", "bad", "good")]
        async with calling(app) as client:
            response = await client.post(path("coded", batch=True), json={"rows": sent})
        assert response.status_code == 200
        answer = response.json()
        assert [row["reward"] for row in answer["results"]] == [0.5, 0.0, 0.5]
        assert answer["results"][1]["ok"] is False
        assert answer["results"][1]["error"] == {
            "code": "sandbox_unavailable",
            "message": "no worker",
            "flag": "python_grader_server_error",
            "upstream": True,
            "retryable": True,
            "retry_after_s": 3.0,
        }
        assert answer["summary"]["mean_reward"] == 0.5

    async def test_rows_carry_parts_judges_and_usage(self, api: httpx.AsyncClient) -> None:
        sent = {"item": {"answer": "Paris", "question": "?"}, "model_sample": "Paris"}
        answer = (await api.post(path("mixed", batch=True), json={"rows": [sent]})).json()
        row = answer["results"][0]
        assert row["sub_rewards"] == {"same": 1.0, "judged": 0.75}
        assert row["judgements"] == [f"judge:{MODEL}:reply-key"]
        assert row["usage"][MODEL]["total_tokens"] == 120
        assert "diagnostics" not in row

    async def test_rows_carry_diagnostics_with_debug(self, api: httpx.AsyncClient) -> None:
        url = path("coded", batch=True) + "?debug=true"
        answer = (await api.post(url, json={"rows": [RIGHT]})).json()
        assert answer["results"][0]["diagnostics"][""]["stdout"] == "hello from the grader"

    async def test_the_wanted_failure_is_the_one_outside(self, definitions: Path) -> None:
        app = app_with_judge(definitions, FakeJudge(lambda _: JudgeUnavailableError("down")))
        sent = {"item": {"question": "?"}, "model_sample": "Paris"}  # also lacks item.answer
        async with calling(app) as client:
            answer = (await client.post(path("mixed", batch=True), json={"rows": [sent]})).json()
        assert answer["results"][0]["error"]["code"] == "judge_unavailable"
        assert answer["results"][0]["error"]["part"] == "judged"

    async def test_every_unreadable_row_is_named(self, api: httpx.AsyncClient) -> None:
        sent = [RIGHT, {"item": {}}, RIGHT, {"model_sample": "a", "sample": {}}]
        response = await api.post(path("exact", batch=True), json={"rows": sent})
        problem = response.json()
        assert response.status_code == 400
        assert problem["type"] == PROBLEM + "invalid-rows"
        assert [finding["pointer"] for finding in problem["errors"]] == ["/rows/1", "/rows/3"]

    @pytest.mark.parametrize(
        ("body", "pointer"),
        [
            pytest.param(b"{", None, id="cut off"),
            pytest.param(b"", None, id="empty"),
            pytest.param(b"[]", None, id="array"),
            pytest.param(b"{}", "/rows", id="no rows"),
            pytest.param(b'{"rows": [{"model_sample": 3}]}', "/rows/0/model_sample", id="type"),
            pytest.param(b'{"rows": [], "more": 1}', "/more", id="unknown field"),
            pytest.param(b'{"rows": [{"row": 1}]}', "/rows/0/row", id="unknown field in a row"),
        ],
    )
    async def test_a_body_that_is_no_batch_is_400_with_the_place(
        self, api: httpx.AsyncClient, body: bytes, pointer: str | None
    ) -> None:
        for name in ("exact", "coded"):
            response = await api.post(path(name, batch=True), content=body)
            assert response.status_code == 400
            found = [finding["pointer"] for finding in response.json().get("errors", [])]
            assert found == ([] if pointer is None else [pointer])

    async def test_too_many_rows_are_413_and_point_to_ndjson(self, definitions: Path) -> None:
        app = create_app(settings(definitions, max_batch_rows=2))
        async with calling(app) as client:
            response = await client.post(path("exact", batch=True), json={"rows": [RIGHT] * 3})
        assert response.status_code == 413
        assert "limit is 2" in response.json()["detail"]
        assert "NDJSON" in response.json()["detail"]

    async def test_only_the_keys_that_templates_read_are_decoded(
        self, api: httpx.AsyncClient
    ) -> None:
        """So a number that nothing can hold is no trouble where nothing reads it."""
        row = b'{"model_sample": "Paris", "item": {"answer": "Paris", "unread": 1e999}}'
        answer = await api.post(path("exact", batch=True), content=b'{"rows": [' + row + b"]}")
        assert answer.json()["results"][0]["reward"] == 1.0

    async def test_the_mean_of_huge_rewards_is_finite(self, definitions: Path) -> None:
        sandbox = FakeSandbox(lambda _: SandboxResult(outcome="value", value=1.7e308))
        app = create_app(settings(definitions), ports=Ports(sandbox=sandbox))
        async with calling(app) as client:
            answer = await client.post(path("coded", batch=True), json={"rows": [RIGHT] * 5})
        assert answer.json()["summary"]["mean_reward"] == 1.7e308

    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    async def test_what_is_no_number_never_leaves(self, definitions: Path, value: float) -> None:
        sandbox = FakeSandbox(lambda _: SandboxResult(outcome="value", value=value))
        app = create_app(settings(definitions), ports=Ports(sandbox=sandbox))
        async with calling(app) as client:
            one = await client.post(path("coded"), json=RIGHT)
            many = await client.post(path("coded", batch=True), json={"rows": [RIGHT]})
        assert one.json()["reward"] == many.json()["results"][0]["reward"] == 0.0
        assert one.json()["error"]["code"] == "python_runtime"
        assert many.json()["summary"]["mean_reward"] is None
        assert "NaN" not in one.text + many.text

    async def test_the_means_of_equal_rewards_are_exact(self, api: httpx.AsyncClient) -> None:
        body = {"rows": [{"item": {"answer": "a b c"}, "model_sample": "a b d"}] * 7}
        answer = (await api.post(path("overlap", batch=True), json=body)).json()
        rewards = [row["reward"] for row in answer["results"]]
        assert answer["summary"]["mean_reward"] == sum(rewards) / 7


class TestClients:
    @pytest.mark.parametrize("batch", [False, True], ids=["score", "batch"])
    def test_leaving_cancels_the_work_and_the_service_goes_on(
        self, definitions: Path, batch: bool
    ) -> None:
        async def never(_: JudgeCall) -> JudgeReply:
            await asyncio.sleep(60)
            raise AssertionError("nobody waits that long")

        judge = FakeJudge(never)
        body = json.dumps({"rows": [ASKED] * 10} if batch else ASKED).encode()
        with serving(settings(definitions), Ports(judge=judge)) as live:
            client = post_and_keep_open(live.port, path("judged", batch=batch), body)
            wait_until(lambda: judge.under_way == (10 if batch else 1))
            client.close()
            wait_until(lambda: judge.under_way == 0)
            assert judge.cancelled == (10 if batch else 1)
            answer = httpx.post(live.url + path("exact"), json=RIGHT)
            assert answer.json()["reward"] == 1.0
            wait_until(lambda: 'status="499"' in httpx.get(f"{live.url}/metrics").text)

    def test_leaving_a_run_cancels_it_too(self, definitions: Path) -> None:
        async def never(_: JudgeCall) -> JudgeReply:
            await asyncio.sleep(60)
            raise AssertionError("nobody waits that long")

        judge = FakeJudge(never)
        grader = {"type": "score_model", "model": "m", "input": [{"role": "user", "content": "?"}]}
        body = json.dumps({"grader": grader, "model_sample": "x"}).encode()
        with serving(settings(definitions), Ports(judge=judge)) as live:
            client = post_and_keep_open(live.port, "/v1/fine_tuning/alpha/graders/run", body)
            wait_until(lambda: judge.under_way == 1)
            client.close()
            wait_until(lambda: judge.cancelled == 1)

    def test_leaving_before_the_body_is_complete_does_no_harm(self, definitions: Path) -> None:
        with serving(settings(definitions)) as live:
            for batch in (False, True):
                url = path("exact", batch=batch)
                post_and_keep_open(live.port, url, b'{"rows"', length=1000).close()
            wait_until(lambda: 'status="499"' in httpx.get(f"{live.url}/metrics").text)
            assert httpx.get(f"{live.url}/healthz").json() == {"status": "ok"}


class TestBlocks:
    async def test_a_heavy_batch_yields_the_event_loop(self, app: Edge) -> None:
        """So that ``/healthz`` is answered meanwhile; counted, because times are the machine's."""
        words = " ".join(f"word{number}" for number in range(200))
        sent = [{"item": {"answer": words}, "model_sample": f"{n} {words}"} for n in range(2_000)]
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                await asyncio.sleep(0)
                turns += 1

        async with calling(app) as client:
            counting = asyncio.create_task(count())
            began = time.perf_counter()
            response = await client.post(path("overlap", batch=True), json={"rows": sent})
            seconds = time.perf_counter() - began
            counting.cancel()
        assert response.json()["summary"]["rows"] == 2_000
        assert turns > seconds / 0.05  # a 50 ms block on average would still be too much

    @pytest.mark.parametrize(
        ("size", "seconds", "following"),
        [
            pytest.param(8, 0.1, 4, id="too slow"),
            pytest.param(1, 9.9, 1, id="one row is the least"),
            pytest.param(8, 0.0001, 16, id="quick"),
            pytest.param(512, 0.0, 512, id="never more than 512"),
            pytest.param(8, 0.003, 8, id="about right"),
        ],
    )
    def test_blocks_follow_the_time_they_take(
        self, size: int, seconds: float, following: int
    ) -> None:
        assert next_block(size, seconds) == following


class TestCounting:
    async def test_every_outcome_is_counted_once(self, definitions: Path) -> None:
        judge = FakeJudge(
            lambda call: JudgeUnavailableError("down") if "bad" in prompt(call) else verdict(1)
        )
        app = app_with_judge(definitions, judge)
        sent = [
            {"item": {"question": "?"}, "model_sample": "good"},
            {"item": {"question": "?"}, "model_sample": "bad"},
            {"model_sample": "good"},
        ]
        async with calling(app) as client:
            await client.post(path("judged", batch=True), json={"rows": sent * 2})
            for row in sent:
                await client.post(path("judged"), json=row)
            text = (await client.get("/metrics")).text
        for outcome, count in (("ok", 3), ("failed", 3), ("upstream", 3)):
            labels = f'{{grader="judged",outcome="{outcome}",version="1"}}'
            assert metric(text, f"gradekeeper_grades_total{labels}") == count
        for code in ("judge_unavailable", "invalid_variable"):
            assert metric(text, f'gradekeeper_grade_failures_total{{code="{code}"}}') == 3


def post_and_keep_open(
    port: int, url: str, body: bytes, *, length: int | None = None
) -> socket.socket:
    """Send a request and leave its answer unread."""
    client = socket.create_connection(("127.0.0.1", port))
    size = len(body) if length is None else length
    head = f"POST {url} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {size}\r\n\r\n"
    client.sendall(head.encode() + body)
    return client
