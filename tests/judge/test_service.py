"""Judges end to end: real clients, real server processes, real Redis, a scripted upstream."""

from __future__ import annotations

import asyncio
import json
import re
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.api import world
from tests.fakes_upstream import Says, Upstream, completion, error
from tests.judge.served import (
    COST_USD,
    KEYS,
    Background,
    budgets_file,
    by_marker,
    client_of,
    judged,
    keys_file,
    reset,
    routes_file,
    score_path,
    serving,
    verdict,
)
from tests.stores.server import RedisServer

pytestmark = pytest.mark.integration
MODEL = "judge-2026-01-01"
SPENT = (
    r"judge budget of this key, \$[\d.]+ a day: \$[\d.]+ left, this call may cost \$[\d.]+; "
    r"renewed 00:00 UTC"
)
USAGE = {
    "prompt_tokens": 100,
    "completion_tokens": 20,
    "total_tokens": 120,
    "cached_tokens": 0,
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("service")


@pytest.fixture(scope="module")
def background() -> Iterator[Upstream]:
    with Background() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def routes(place: Path, background: Upstream) -> Path:
    successors = {"gpt-4o-2024-08-06": "gpt-4.1-2025-04-14"}
    return routes_file(place, background.url, successors=successors, concurrency=1000)


@pytest.fixture(scope="module")
def service(place: Path, routes: Path, redis_server: RedisServer) -> Iterator[world.Child]:
    """One replica for all tests that need nothing special of it."""
    with serving(place, routes, redis_url=redis_server.url, max_concurrent_rows="125") as child:
        yield child


@pytest.fixture
def upstream(background: Upstream, redis_server: RedisServer) -> Upstream:
    redis_server.cli("flushall")
    reset(background)
    return background


@pytest.fixture
def client(service: world.Child) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service.url, timeout=20) as client:
        yield client


def ask(client: httpx.Client, name: str, row: dict[str, Any], **options: Any) -> dict[str, Any]:
    answer = client.post(score_path(name), json=row, **options)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def peak_mib(service: world.Child) -> float:
    """Return the most memory that ``service`` has had resident."""
    status = Path(f"/proc/{service.process.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


class TestOneScore:
    def test_says_what_was_asked_paid_and_given(
        self, upstream: Upstream, client: httpx.Client
    ) -> None:
        row = judged("[[judge:0.25]] one")
        first = ask(client, "judged", row, params={"debug": "true"})
        assert (first["reward"], first["ok"], first["sampled_model_name"]) == (0.25, True, MODEL)
        assert first["token_usage"] == {MODEL: USAGE}
        assert first["cost_usd"] == pytest.approx(COST_USD)
        head, _, key = first["signature"].rpartition("|")
        assert head.startswith("judged@1|sha256:")
        assert key.startswith(f"judge:{MODEL}:")
        assert [len(part) for part in key.split(":")[2:]] == [64, 16]
        paid = first["diagnostics"][""]
        assert (paid["route"], paid["source"], paid["cached"]) == ("test", "leader", False)
        assert paid["successor"] == {
            "asked": "gpt-4o-2024-08-06",
            "answered_by": "gpt-4.1-2025-04-14",
        }
        assert upstream.asked[0].body["model"] == "gpt-4.1-2025-04-14"
        again = ask(client, "judged", row, params={"debug": "true"})
        assert again["signature"] == first["signature"]
        assert again["token_usage"] == first["token_usage"]
        assert again["cost_usd"] == 0.0
        assert again["diagnostics"][""]["cached"] is True
        assert upstream.count == 1
        text = client.get("/metrics").text
        paid_for = 'grader="judged@1",key="",model="judge-2026-01-01"'
        cost = world.metric(text, f"gradekeeper_judge_cost_dollars_total{{{paid_for}}}")
        assert cost == pytest.approx(COST_USD)
        assert world.metric(text, 'gradekeeper_judge_cache_total{result="hit_process"}') == 1.0

    def test_of_a_label_a_multi_and_a_cosine(
        self, upstream: Upstream, client: httpx.Client
    ) -> None:
        label = ask(client, "labelled", judged("[[judge:bad]] label"))
        assert (label["reward"], label["ok"], label["passed"]) == (0.0, True, False)
        mixed = ask(client, "mixed", judged("[[judge:0.5]] mixed"))
        assert mixed["sub_rewards"] == {"same": 0.0, "judged": 0.5}
        assert mixed["reward"] == 0.25
        same = ask(client, "meaning", {"item": {"answer": "x"}, "model_sample": "x"})
        assert same["reward"] == pytest.approx(1.0)
        assert same["token_usage"]["embedding-1"]["prompt_tokens"] == 7
        assert "|embedding:embedding-1:" in same["signature"]
        assert same["cost_usd"] == pytest.approx(7 * 2e-6)

    def test_of_a_refusal_and_of_nonsense_is_a_flag_not_a_zero(
        self, upstream: Upstream, client: httpx.Client
    ) -> None:
        upstream.script = lambda asked: completion(None, refusal="I will not.")
        refused = ask(client, "judged", judged("refuse"))
        assert (refused["ok"], refused["error"]["code"]) == (False, "model_refusal")
        assert refused["errors"]["model_grader_refusal_error"] is True
        assert refused["cost_usd"] == pytest.approx(COST_USD)
        upstream.script = lambda asked: completion("five out of ten")
        assert ask(client, "judged", judged("prose"))["error"]["code"] == "model_parse"

    def test_headers_say_what_the_cache_does(
        self, upstream: Upstream, client: httpx.Client
    ) -> None:
        row = judged("headers")
        for headers, count in (
            ({}, 1),
            ({}, 1),
            ({"x-gradekeeper-cache": "refresh"}, 2),
            ({"x-gradekeeper-cache": "off"}, 3),
            ({"x-gradekeeper-sample-index": "1"}, 4),
            ({"x-gradekeeper-sample-index": "1"}, 4),
            ({"x-gradekeeper-cache": "read-write", "x-gradekeeper-sample-index": "0"}, 4),
        ):
            ask(client, "judged", row, headers=headers)
            assert upstream.count == count, headers
        for header in ("x-gradekeeper-cache", "x-gradekeeper-sample-index"):
            refused = client.post(score_path("judged"), json=row, headers={header: "maybe"})
            assert refused.status_code == 400
            assert header in refused.json()["detail"]

    def test_of_a_judge_that_answers_anew_has_another_signature(
        self, upstream: Upstream, client: httpx.Client
    ) -> None:
        said = iter(("0.25", "0.75", "0.75"))
        upstream.script = lambda asked: completion(verdict(next(said)))
        again = {"x-gradekeeper-cache": "refresh"}
        first = ask(client, "judged", judged("sign"))
        second, third = (ask(client, "judged", judged("sign"), headers=again) for _ in range(2))
        assert (first["reward"], second["reward"], third["reward"]) == (0.25, 0.75, 0.75)
        assert first["signature"] != second["signature"] == third["signature"]
        question, _, _ = first["signature"].rpartition(":")
        assert second["signature"].startswith(question)
        assert ask(client, "judged", judged("sign"))["signature"] == third["signature"]

    def test_of_an_ensemble_pays_every_draw_once_and_shares_the_plain_one(
        self, upstream: Upstream, client: httpx.Client
    ) -> None:
        rewards = iter((0.25, 0.75, 1.0))
        upstream.script = lambda asked: completion(verdict(str(next(rewards))))
        plain = ask(client, "judged", judged("ensemble"))
        row = {**judged("ensemble"), "sampling": {"n": 3, "method": "median"}}
        found = ask(client, "judged", row)
        assert plain["reward"] == 0.25
        assert found["reward"] == 0.75
        assert found["cost_usd"] == pytest.approx(2 * COST_USD)
        assert found["token_usage"][MODEL]["total_tokens"] == 360
        assert sorted(one["reward"] for one in found["ensemble"]["draws"]) == [0.25, 0.75, 1.0]
        assert upstream.count == 3
        upstream.script = by_marker
        row["sampling"] = {"models": ["gpt-4o-mini", "o3"]}
        ask(client, "judged", row)
        assert {asked.body["model"] for asked in upstream.asked[3:]} == {"gpt-4o-mini", "o3"}


class TestManyScores:
    def test_of_a_batch_are_in_order_and_add_up(
        self, upstream: Upstream, client: httpx.Client
    ) -> None:
        upstream.script = lambda asked: (
            error(400) if "broken" in asked.text else completion(verdict(asked.marker or "1"))
        )
        texts = ["[[judge:0.1]]", "[[judge:0.2]]", "[[judge:0.1]]", "broken", "[[judge:0.3]]"]
        rows = [judged(f"{text} batch") for text in texts]
        answer = client.post(score_path("judged", batch=True), json={"rows": rows}).json()
        results = answer["results"]
        assert [r["reward"] for r in results if r["ok"]] == [0.1, 0.2, 0.1, 0.3]
        assert results[3]["error"]["code"] == "judge_unavailable"
        assert results[3]["error"]["flag"] == "model_grader_server_error"
        assert sum(r.get("cost_usd", 0) for r in results) == pytest.approx(3 * COST_USD)
        assert results[0]["judgements"] == results[2]["judgements"]
        assert answer["summary"]["failed"] == 1
        assert upstream.count == 4

    def test_of_a_stream_come_with_their_index(
        self, upstream: Upstream, client: httpx.Client
    ) -> None:
        rows = [judged(f"[[judge:{index / 10}]] stream") for index in range(10)]
        answer = client.post(
            score_path("judged", batch=True),
            content=world.lines(rows),
            headers={"content-type": "application/x-ndjson", "x-gradekeeper-cache": "refresh"},
        )
        *results, end = world.read_lines(answer.content)
        assert {r["index"]: r["reward"] for r in results} == {i: i / 10 for i in range(10)}
        assert end["summary"]["ok"] == 10
        assert upstream.count == 10


class TestOfficialClient:
    @pytest.fixture
    def official(self, service: world.Child) -> Iterator[openai.OpenAI]:
        with openai.OpenAI(base_url=f"{service.url}/v1", api_key="any", max_retries=0) as client:
            yield client

    def run(self, official: openai.OpenAI, grader: Any, sample: str, **options: Any) -> Any:
        return official.fine_tuning.alpha.graders.run(
            grader=grader, item={"question": "q", "answer": "a"}, model_sample=sample, **options
        )

    def test_runs_every_kind_of_judge(self, upstream: Upstream, official: openai.OpenAI) -> None:
        scored = self.run(official, world.JUDGED, "[[judge:0.75]] client")
        assert scored.reward == 0.75
        assert scored.metadata.sampled_model_name == MODEL
        assert scored.model_grader_token_usage_per_model[MODEL]["total_tokens"] == 120
        labelled = self.run(official, world.LABELLED, "[[judge:good]] client")
        assert labelled.reward == 1.0
        mixed = self.run(official, world.MIXED, "[[judge:0.75]] client")
        assert mixed.sub_rewards == {"same": 0.0, "judged": 0.75}
        assert upstream.count == 2  # the part of `mixed` asks what `judged` asked

    def test_controls_the_cache_by_extra_headers(
        self, upstream: Upstream, official: openai.OpenAI
    ) -> None:
        for value in ("read-write", "refresh", "off"):
            self.run(official, world.JUDGED, "extra", extra_headers={"x-gradekeeper-cache": value})
        assert upstream.count == 3

    def test_gets_a_flag_when_the_upstream_is_down(
        self, upstream: Upstream, official: openai.OpenAI, client: httpx.Client
    ) -> None:
        upstream.script = lambda asked: error(401, code="invalid_api_key")
        answer = self.run(official, world.JUDGED, "down")
        assert answer.reward == 0.0
        assert answer.metadata.errors.model_grader_server_error is True
        refused = client.post(score_path("judged"), json=judged("down"))
        assert refused.status_code == 503
        assert refused.headers["content-type"] == "application/problem+json"
        assert refused.json()["type"] == "urn:gradekeeper:problem:upstream-unavailable"
        assert "retryable" not in refused.json()
        assert "sk-" not in refused.text


async def test_upstream_that_is_gone_is_503_with_retry_after(
    tmp_path: Path, upstream: Upstream
) -> None:
    # Nobody listens on the discard port.
    routes = routes_file(tmp_path, "http://127.0.0.1:9/v1")
    with serving(tmp_path, routes, judge_deadline_s="3") as child:
        async with client_of(child) as client:
            answer = await client.post(score_path("judged"), json=judged("x"))
            assert answer.status_code == 503
            assert int(answer.headers["retry-after"]) >= 1
            assert answer.json()["retryable"] is True


@pytest.fixture(scope="module")
def limited(place: Path, background: Upstream, redis_server: RedisServer) -> Iterator[world.Child]:
    """A replica where a call costs $0.00036, ``trainer`` has three, ``labelled`` one."""
    budgets = budgets_file(
        place,
        {"per": "key", "name": "trainer", "dollars_per_day": 3.5 * COST_USD},
        {"per": "grader", "name": "labelled", "dollars_per_day": 1.5 * COST_USD},
    )
    routes = routes_file(place, background.url, assumed_completion_tokens=1)
    with serving(
        place,
        routes,
        redis_url=redis_server.url,
        judge_budgets_file=str(budgets),
        api_keys_file=str(keys_file(place)),
    ) as child:
        yield child


class TestBudgets:
    def headers(self, key: str) -> dict[str, str]:
        return {"authorization": f"Bearer {KEYS[key]}"}

    def test_spent_is_429_for_this_key_and_grader_only(
        self, limited: world.Child, upstream: Upstream
    ) -> None:
        def post(key: str, name: str, text: str) -> httpx.Response:
            return httpx.post(
                f"{limited.url}{score_path(name)}",
                json=judged(text),
                headers=self.headers(key),
                timeout=20,
            )

        answers = [post("trainer", "judged", f"budget {i}") for i in range(6)]
        assert [a.status_code for a in answers].count(200) in {3, 4}
        refused = answers[-1]
        assert refused.status_code == 429
        problem = refused.json()
        assert problem["type"] == "urn:gradekeeper:problem:budget-exceeded"
        assert re.fullmatch(SPENT, problem["detail"])
        assert int(refused.headers["retry-after"]) >= 1
        assert post("trainer", "judged", "budget 0").status_code == 200  # a reply in the cache
        assert post("other", "judged", "budget other").status_code == 200
        labels = [post("other", "labelled", f"[[judge:good]] {i}").status_code for i in range(4)]
        assert labels[0] == 200
        assert labels[-1] == 429

        with openai.OpenAI(
            base_url=f"{limited.url}/v1", api_key=KEYS["trainer"], max_retries=0
        ) as client:
            grader: Any = world.JUDGED
            flagged: Any = client.fine_tuning.alpha.graders.run(
                grader=grader, item={"question": "q"}, model_sample="budget over"
            )
        assert flagged.reward == 0.0
        assert flagged.metadata.errors.model_grader_server_error is True
        details = flagged.metadata.errors.model_grader_server_error_details
        assert re.fullmatch(SPENT, details)

        batch = httpx.post(
            f"{limited.url}{score_path('judged', batch=True)}",
            json={"rows": [judged("budget 1"), judged("budget new")]},
            headers=self.headers("trainer"),
            timeout=20,
        ).json()["results"]
        assert [row["ok"] for row in batch] == [True, False]
        assert batch[1]["error"]["code"] == "budget_exceeded"


async def test_identical_grades_on_two_replicas_are_one_upstream_call(
    place: Path,
    routes: Path,
    service: world.Child,
    upstream: Upstream,
    redis_server: RedisServer,
) -> None:
    upstream.script = lambda asked: completion(delay_s=0.5)
    with serving(place, routes, redis_url=redis_server.url) as other:
        async with client_of(service) as first, client_of(other) as second:
            calls = [
                client.post(score_path("judged"), json=judged("the same"))
                for client in (first, second)
                for _ in range(100)
            ]
            answers = await asyncio.gather(*calls)
    assert {answer.status_code for answer in answers} == {200}
    assert {answer.json()["reward"] for answer in answers} == {1.0}
    assert len({answer.json()["signature"] for answer in answers}) == 1
    assert sum(answer.json()["cost_usd"] for answer in answers) == pytest.approx(COST_USD)
    assert upstream.count == 1


async def test_replicas_together_stay_within_the_concurrency(
    place: Path, upstream: Upstream, redis_server: RedisServer
) -> None:
    upstream.script = lambda asked: completion(delay_s=0.1)
    options = {"redis_url": redis_server.url, "replicas": "2"}
    few = routes_file(place, upstream.url, concurrency=4)
    with serving(place, few, **options) as one, serving(place, few, **options) as other:
        async with client_of(one) as first, client_of(other) as second:
            calls = [
                client.post(score_path("judged"), json=judged(f"{name} {number}"))
                for name, client in (("first", first), ("second", second))
                for number in range(30)
            ]
            answers = await asyncio.gather(*calls)
    assert {answer.status_code for answer in answers} == {200}
    assert upstream.count == 60
    assert upstream.most_in_flight == 4


@pytest.mark.serial
async def test_thousand_slow_judge_calls_leave_the_service_answering(
    service: world.Child, upstream: Upstream
) -> None:
    # 5 s for the last one, and longer for those before, so that it is still in their company.
    upstream.script = lambda asked: completion(delay_s=5.0 + (1000 - asked.number) / 100)
    async with client_of(service) as client:
        batches = [
            asyncio.create_task(
                client.post(
                    score_path("judged", batch=True),
                    json={"rows": [judged(f"slow {batch}.{row}") for row in range(125)]},
                )
            )
            for batch in range(8)
        ]
        waits_s = []
        while not all(batch.done() for batch in batches):
            began = time.monotonic()
            answer = await client.get("/healthz")
            assert answer.status_code == 200
            waits_s.append(time.monotonic() - began)
            await asyncio.sleep(0.02)
        results = [r for batch in batches for r in batch.result().json()["results"]]
    assert len(results) == 1000
    assert all(result["ok"] for result in results)
    assert upstream.count == upstream.most_in_flight == 1000
    assert peak_mib(service) < 500
    # The batches are sent from here, too; `make bench` has the bar for the 99th percentile.
    assert statistics.median(waits_s) < 0.05
    assert len(waits_s) > 50


def test_lint_learns_of_shutdowns_from_the_upstream(
    upstream: Upstream, client: httpx.Client
) -> None:
    listed = {"data": [{"id": "gpt-4o-2024-08-06", "shutdown_date": "2031-01-01"}]}
    upstream.script = lambda asked: Says(body=json.dumps(listed).encode())

    def lint() -> str:
        found = client.get("/v1/graders/labelled/versions/1").json()["lint"]
        return str(found[-1]["message"])

    assert "2027-01-14; routes send it to 'gpt-4.1-2025-04-14'." in lint()
    world.wait_until(lambda: "2031-01-01" in lint())
    assert [asked.path for asked in upstream.asked] == ["/v1/models"]


class TestStrangeUpstreams:
    @pytest.mark.parametrize(
        "says",
        [Says(body=b"<html>"), Says(action="garbage"), Says(action="drop_midway")],
        ids=["html", "no-http", "cut-off"],
    )
    async def test_that_answer_nonsense_are_a_failure_of_the_row(
        self, says: Says, service: world.Child, upstream: Upstream
    ) -> None:
        upstream.script = lambda asked: says if asked.number < 3 else completion(verdict("0.5"))
        async with client_of(service) as client:
            answer = await client.post(score_path("judged"), json=judged("strange"))
        assert answer.status_code == 200
        assert answer.json()["reward"] == 0.5
        assert json.loads(answer.content)["ok"] is True

    @pytest.mark.parametrize(
        "says",
        [
            completion(verdict("0.5"), usage=(10**30, 2**64, 10**20)),
            error(503, headers={"retry-after": "inf"}),
            error(429, headers={"retry-after": "Wed, 21 Oct 99999999999999999999 07:28:00 GMT"}),
            Says(status=400, body=b'{"error": {"message": "m", "type": {"a": 1}, "code": [1]}}'),
        ],
        ids=["usage", "infinite", "far", "error"],
    )
    async def test_that_answer_oddly_harm_their_own_row_at_most(
        self, says: Says, service: world.Child, upstream: Upstream
    ) -> None:
        odd = judged("odd")
        upstream.script = lambda asked: (
            completion(verdict("0.5")) if "fine" in asked.text or asked.number > 12 else says
        )
        rows = [judged("fine"), odd, judged("fine too")]
        path = score_path("judged", batch=True)
        async with client_of(service) as client:
            batch = await client.post(path, json={"rows": rows})
            lines = {"content-type": "application/x-ndjson"}
            stream = await client.post(path, content=world.lines(rows), headers=lines)
            alone = await client.post(score_path("judged"), json=odd)
        assert batch.status_code == 200
        results = batch.json()["results"]
        streamed, end = world.read_lines(stream.content)[:3], world.read_lines(stream.content)[3]
        assert [results[0]["reward"], results[2]["reward"]] == [0.5, 0.5]
        assert sorted(row["index"] for row in streamed) == [0, 1, 2]
        assert end["summary"]["rows"] == 3
        assert alone.status_code in {200, 503}


async def test_recorded_data_set_is_replayed_bit_for_bit_without_an_upstream(
    tmp_path: Path, routes: Path, upstream: Upstream
) -> None:
    file = tmp_path / "judgements.jsonl"
    rows = [judged(f"[[judge:{number / 7}]] recorded") for number in range(20)]
    rows.append(judged("refuse"))
    upstream.script = lambda asked: (
        completion(None, refusal="no") if "refuse" in asked.text else by_marker(asked)
    )
    path = score_path("mixed", batch=True)
    with serving(tmp_path, routes, judge_mode="record", judge_recording=str(file)) as child:
        async with client_of(child) as client:
            recorded = (await client.post(path, json={"rows": rows})).json()
    assert upstream.count == 21
    with serving(tmp_path, routes, judge_mode="replay", judge_recording=str(file)) as child:
        async with client_of(child) as client:
            replayed = (await client.post(path, json={"rows": rows})).json()
            missing = await client.post(score_path("mixed"), json=judged("not recorded"))
            batch = await client.post(path, json={"rows": [judged("not recorded")]})
            flagged = await client.post(
                "/v1/fine_tuning/alpha/graders/run",
                json={"grader": world.JUDGED, **judged("not recorded")},
            )
    for answer in (recorded, replayed):
        for result in answer["results"]:
            result["cost_usd"] = None  # paid once
    assert replayed == recorded
    assert upstream.count == 21
    assert missing.status_code == 424
    assert missing.json()["type"] == "urn:gradekeeper:problem:missing-recording"
    assert "retryable" not in missing.json()
    assert "retry-after" not in missing.headers
    assert batch.json()["results"][0]["error"]["code"] == "missing_recording"
    errors = flagged.json()["metadata"]["errors"]
    assert errors["model_grader_server_error"] is True
    assert "recording" in errors["model_grader_server_error_details"]
