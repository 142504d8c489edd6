"""Failures of the upstream: which are tried again, which are not, and what the caller is told."""

from __future__ import annotations

import asyncio
import email.utils
import errno
import gzip
import itertools
import json
import socket
import time
from pathlib import Path
from random import Random
from typing import Any

import pytest

from graders.engine import compile_grader
from graders.errors import EmbedderUnavailableError, JudgeUnavailableError, OverloadedError
from graders.grade import TokenUsage
from graders.ports import EmbeddingCall, Ports
from graders.sample import Sample
from service.judge import (
    JudgeConfig,
    JudgeContext,
    OpenAIJudge,
    RetryPolicy,
    Route,
    Routes,
    Sampling,
    draw,
)
from service.judge.client import _reason
from service.stores import MemoryStore
from tests.fakes_upstream import Asked, Says, Upstream, completion, embeddings, error
from tests.judge.calls import call
from tests.judge.conftest import MakeJudge
from tests.options import options
from tests.stores.server import free_port

FAST = RetryPolicy(first_pause_s=0.01, longest_pause_s=0.02)
QUICK = JudgeConfig(retry=FAST, deadline_s=10)


def then(*says: Says) -> Any:
    """Return a script that says these one after the other, then answers."""
    rest = itertools.chain(says, itertools.repeat(completion()))
    return lambda asked: next(rest)


async def failure(judge: OpenAIJudge, text: str = "x") -> JudgeUnavailableError:
    with pytest.raises(JudgeUnavailableError) as caught:
        await judge.judge(call(text))
    return caught.value


class TestRetries:
    @pytest.mark.parametrize(
        "first",
        [
            error(500),
            error(503),
            error(429, headers={"retry-after-ms": "5"}),
            error(408),
            error(409),
            Says(action="drop"),
            Says(action="drop_midway"),
            Says(action="garbage"),
            Says(body=b"oops"),
            Says(body=b"not gzip", headers={"content-encoding": "gzip"}),
        ],
        ids=lambda says: f"{says.action}-{says.status}-{len(says.body)}",
    )
    async def test_passing_failures_are_tried_again(
        self, upstream: Upstream, make_judge: MakeJudge, first: Says
    ) -> None:
        upstream.script = then(first)
        reply = await make_judge(QUICK).judge(call())
        assert reply.content == '{"steps": [], "result": 1}'
        assert reply.diagnostics["attempts"] == 2

    @pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
    async def test_misconfiguration_is_not(
        self, upstream: Upstream, make_judge: MakeJudge, status: int
    ) -> None:
        upstream.script = lambda asked: error(status, code="bad_thing", message="sk-secret and x")
        caught = await failure(make_judge(QUICK))
        assert (caught.retryable, caught.kind) == (False, f"http_{status}")
        assert upstream.count == 1
        assert "bad_thing" in caught.details
        assert "sk-secret" not in str(caught)

    async def test_spent_quota_is_not(self, upstream: Upstream, make_judge: MakeJudge) -> None:
        upstream.script = lambda asked: error(429, code="insufficient_quota")
        caught = await failure(make_judge(QUICK))
        assert (caught.retryable, caught.kind) == (False, "insufficient_quota")
        assert upstream.count == 1

    async def test_attempts_end(self, upstream: Upstream, make_judge: MakeJudge) -> None:
        upstream.script = lambda asked: error(500)
        judge = make_judge(QUICK)
        caught = await failure(judge)
        assert (caught.retryable, caught.kind) == (True, "http_500")
        assert "after 6 attempts" in caught.details
        assert upstream.count == 6
        assert judge.stats.attempts["test", "http_500"] == 6
        assert judge.stats.retries["test"] == 5

    async def test_hanging_attempt_is_cut_and_tried_again(
        self, upstream: Upstream, make_judge: MakeJudge
    ) -> None:
        upstream.script = then(Says(action="hang"))
        judge = make_judge(QUICK, timeout_s=0.5)
        assert (await judge.judge(call())).diagnostics["attempts"] >= 2
        assert judge.stats.attempts["test", "timeout"] >= 1

    async def test_nobody_listening(self, make_judge: MakeJudge) -> None:
        caught = await failure(make_judge(QUICK, base_url=f"http://127.0.0.1:{free_port()}/v1"))
        assert (caught.retryable, caught.kind) == (True, "connection")
        assert "the connection failed (connection refused)" in caught.details

    @pytest.mark.parametrize(
        ("cause", "details"),
        [
            (
                socket.gaierror(-2, "secret"),
                "the connection failed (the host's name has no address)",
            ),
            (OSError(errno.EHOSTUNREACH, "secret"), "the connection failed (no route to host)"),
            (OSError(errno.EPERM, "secret"), ""),  # the number of a TLS error, too
        ],
    )
    def test_the_system_names_the_cause(self, cause: OSError, details: str) -> None:
        wrapped = RuntimeError("secret")
        wrapped.__cause__ = cause
        assert _reason(wrapped) == details


class TestRetryAfter:
    async def test_is_a_lower_bound(self, upstream: Upstream, make_judge: MakeJudge) -> None:
        upstream.script = then(error(429, headers={"retry-after": "0.3"}))
        began = time.monotonic()
        await make_judge(QUICK).judge(call())
        assert 0.3 <= time.monotonic() - began < 5

    @pytest.mark.parametrize("text", ["0", "0.02"])
    async def test_does_not_switch_the_growth_of_pauses_off(
        self, upstream: Upstream, make_judge: MakeJudge, text: str
    ) -> None:
        times: list[float] = []

        def script(asked: Asked) -> Says:
            times.append(time.monotonic())
            return error(429, headers={"retry-after": text})

        upstream.script = script
        policy = RetryPolicy(attempts=5, first_pause_s=0.05, longest_pause_s=10)
        await failure(make_judge(JudgeConfig(retry=policy, deadline_s=30)))
        pauses = [after - before for before, after in itertools.pairwise(times)]
        assert len(pauses) == 4
        assert all(
            pause > least for pause, least in zip(pauses, [0.024, 0.05, 0.1, 0.2], strict=True)
        )

    async def test_past_the_deadline_fails_at_once_and_is_handed_on(
        self, upstream: Upstream, make_judge: MakeJudge
    ) -> None:
        upstream.script = lambda asked: error(429, headers={"retry-after": "60"})
        began = time.monotonic()
        caught = await failure(make_judge(QUICK))
        assert time.monotonic() - began < 5
        assert caught.retry_after_s == 60
        assert upstream.count == 1

    @pytest.mark.parametrize(
        ("text", "low", "high"),
        [
            (email.utils.formatdate(time.time() + 3000, usegmt=True), 2000, 3001),
            ("-5", 0, 0),
        ],
        ids=["date", "negative"],
    )
    async def test_every_form(
        self, upstream: Upstream, make_judge: MakeJudge, text: str, low: float, high: float
    ) -> None:
        upstream.script = lambda asked: error(503, headers={"retry-after": text})
        caught = await failure(make_judge(QUICK))
        assert caught.retry_after_s is not None
        assert low <= caught.retry_after_s <= high

    @pytest.mark.parametrize(
        "text",
        ["soon", "inf", "1e400", "nan", "Wed, 21 Oct 99999999999999999999 07:28:00 GMT"],
    )
    async def test_nonsense_is_ignored(
        self, upstream: Upstream, make_judge: MakeJudge, text: str
    ) -> None:
        headers = {"retry-after": text, "retry-after-ms": text}
        upstream.script = lambda asked: error(503, headers=headers)
        caught = await failure(make_judge(QUICK))
        assert (caught.retry_after_s, caught.kind) == (None, "http_503")
        assert upstream.count == 6


class TestLimits:
    async def test_concurrency_is_never_passed(
        self, upstream: Upstream, make_judge: MakeJudge
    ) -> None:
        upstream.script = lambda asked: completion(delay_s=0.01)
        judge = make_judge(concurrency=4)
        await asyncio.gather(*(judge.judge(call(str(i))) for i in range(40)))
        assert upstream.most_in_flight == 4

    async def test_full_queue_is_overload(self, upstream: Upstream, make_judge: MakeJudge) -> None:
        upstream.script = lambda asked: completion(delay_s=0.1)
        judge = make_judge(concurrency=1, queue=2)
        results = await asyncio.gather(
            *(judge.judge(call(str(i))) for i in range(6)), return_exceptions=True
        )
        assert [isinstance(one, OverloadedError) for one in results] == [False] * 3 + [True] * 3
        assert {getattr(one, "flag", "") for one in results[3:]} == {"model_grader_server_error"}

    async def test_429s_lower_the_slots(self, upstream: Upstream, make_judge: MakeJudge) -> None:
        upstream.script = then(error(429, headers={"retry-after-ms": "1"}))
        judge = make_judge(QUICK, concurrency=8)
        await judge.judge(call())
        assert 4 < judge.route_states[0].limit < 5

    async def test_requests_per_minute_flow(
        self, upstream: Upstream, make_judge: MakeJudge
    ) -> None:
        judge = make_judge(requests_per_minute=600)
        began = time.monotonic()
        await asyncio.gather(*(judge.judge(call(str(i))) for i in range(63)))
        assert 0.25 < time.monotonic() - began < 10

    async def test_rate_limit_past_the_deadline_fails_at_once(
        self, upstream: Upstream, make_judge: MakeJudge
    ) -> None:
        judge = make_judge(JudgeConfig(deadline_s=1), tokens_per_minute=100)
        caught = await failure(judge)
        assert caught.kind == "rate_limit"
        assert caught.retry_after_s is not None
        assert upstream.count == 0

    async def test_tokens_that_no_usage_states_are_not_given_back(
        self, upstream: Upstream, make_judge: MakeJudge
    ) -> None:
        upstream.script = lambda asked: completion(usage=(0, 0, 0))
        judge = make_judge(JudgeConfig(deadline_s=2), tokens_per_minute=6_000)
        await judge.warm()
        await judge.judge(call("takes nearly all of the burst of 600"))
        assert (await failure(judge)).kind == "rate_limit"

    async def test_broken_upstream_is_left_alone_then_probed(
        self, upstream: Upstream, make_judge: MakeJudge
    ) -> None:
        upstream.script = lambda asked: error(500)
        policy = RetryPolicy(
            attempts=1, breaker_failures=5, breaker_span_s=0.0, breaker_pause_s=0.2
        )
        judge = make_judge(JudgeConfig(retry=policy))
        failures = [await failure(judge, str(i)) for i in range(8)]
        kinds = [one.kind for one in failures]
        # The sixth waits out the first pause and is the probe.
        assert kinds == ["http_500"] * 6 + ["circuit_open"] * 2
        assert "left alone for now; last: HTTP 500" in failures[-1].details
        assert judge.route_states[0].circuit == "open"
        upstream.script = lambda asked: completion()
        await asyncio.sleep(0.45)
        assert judge.route_states[0].circuit == "half_open"
        await judge.judge(call("probe"))
        assert judge.route_states[0].circuit == "closed"

    async def test_waiting_for_a_slot_is_measured_apart_from_the_call(
        self, upstream: Upstream, make_judge: MakeJudge
    ) -> None:
        upstream.script = lambda asked: completion(delay_s=0.3)
        judge = make_judge(concurrency=1)
        await judge.warm()
        await asyncio.gather(*(judge.judge(call(text)) for text in ("one", "two")))
        waited, took = judge.stats.waits["test"], judge.stats.latency["test"]
        assert (waited.count, took.count) == (2, 2)
        assert 0.25 < waited.total_s < 0.6 < took.total_s


class TestDeadlines:
    async def test_overall_deadline_bounds_retries(
        self, upstream: Upstream, make_judge: MakeJudge
    ) -> None:
        upstream.script = lambda asked: Says(action="hang")
        judge = make_judge(JudgeConfig(deadline_s=0.3, retry=FAST), timeout_s=0.1)
        began = time.monotonic()
        caught = await failure(judge)
        assert time.monotonic() - began < 3
        assert caught.kind in {"deadline", "timeout"}

    async def test_one_deadline_holds_for_all_parts_and_draws_of_a_grade(
        self, upstream: Upstream, make_judge: MakeJudge
    ) -> None:
        upstream.script = lambda asked: Says(action="hang")
        judge = make_judge(JudgeConfig(deadline_s=1.0), concurrency=4)
        await judge.warm()
        part = {"type": "score_model", "name": "a", "model": "m"}
        parts = {
            name: part | {"input": [{"role": "user", "content": f"{name} {{{{item.text}}}}"}]}
            for name in ("a", "b", "c")
        }
        definition = {"type": "multi", "name": "m", "graders": parts, "calculate_output": "a+b+c"}
        grader = compile_grader(definition, options(), purpose="run")
        ports = Ports(judge=judge)
        began = time.monotonic()
        found = await draw(
            lambda: grader.grade({"text": "x"}, Sample("s"), ports), Sampling(n=3), JudgeContext()
        )
        assert 0.9 < time.monotonic() - began < 1.9
        kinds = {failure.kind for one in found.draws for failure in one.grade.failures}
        assert kinds <= {"deadline", "timeout"}
        assert len(found.draws) == 3
        await asyncio.sleep(0.2)
        assert upstream.cancelled == upstream.count == 4

    async def test_waiting_for_a_slot_counts(
        self, upstream: Upstream, make_judge: MakeJudge
    ) -> None:
        upstream.script = lambda asked: Says(action="hang")
        judge = make_judge(JudgeConfig(deadline_s=0.8), concurrency=1)
        await judge.warm()
        results = await asyncio.gather(*(failure(judge, str(i)) for i in range(3)))
        assert {result.kind for result in results} <= {"deadline", "timeout"}
        assert upstream.count == 1


class TestCancelling:
    async def test_last_one_to_leave_ends_the_call(
        self, upstream: Upstream, make_judge: MakeJudge
    ) -> None:
        upstream.script = lambda asked: completion(delay_s=0.5 if asked.number == 1 else 60)
        judge = make_judge()
        first, second = (asyncio.create_task(judge.judge(call())) for _ in range(2))
        await upstream.reached(1)
        first.cancel()
        await asyncio.sleep(0.05)
        assert upstream.cancelled == 0
        assert (await second).content
        third = asyncio.create_task(judge.judge(call("other")))
        await upstream.reached(2)
        third.cancel()
        await asyncio.sleep(0.2)
        assert upstream.cancelled == 1
        assert judge.stats.flights["abandoned"] == 1

    async def test_question_called_off_can_be_asked_again_at_once(
        self, upstream: Upstream, make_judge: MakeJudge
    ) -> None:
        upstream.script = lambda asked: completion(delay_s=0.1)
        judge = make_judge()
        first = asyncio.create_task(judge.judge(call()))
        await asyncio.sleep(0.05)
        first.cancel()
        began = time.monotonic()
        assert (await judge.judge(call())).content
        assert time.monotonic() - began < 5


class TestOthers:
    async def test_no_route(self, upstream: Upstream, make_judge: MakeJudge) -> None:
        judge = make_judge(models=("gpt-5*",))
        caught = await failure(judge)
        assert (caught.retryable, caught.kind) == (False, "no_route")

    async def test_text_that_json_cannot_carry(
        self, upstream: Upstream, make_judge: MakeJudge
    ) -> None:
        caught = await failure(make_judge(), "\ud800")
        assert (caught.retryable, caught.kind) == (False, "unsendable")
        assert "\ud800" not in str(caught)

    async def test_key_file_is_read_again_when_it_changes(
        self, upstream: Upstream, make_judge: MakeJudge, tmp_path: Path
    ) -> None:
        file = tmp_path / "key"
        file.write_text("first\n")
        routes = Routes(routes=(Route(name="test", base_url=upstream.url, api_key_file=str(file)),))
        judge = make_judge(routes=routes)
        await judge.judge(call("a"))
        await judge.judge(call("b"))
        file.write_text("second key\n")
        await judge.judge(call("c"))
        seen = [asked.headers["authorization"] for asked in upstream.asked]
        assert seen == ["Bearer first", "Bearer first", "Bearer second key"]

    @pytest.mark.parametrize("content", [b"", b"sk-\xff\xfe", b"sk\x00", None])
    async def test_key_file_that_is_being_replaced_leaves_the_last_key_in_use(
        self, upstream: Upstream, make_judge: MakeJudge, tmp_path: Path, content: bytes | None
    ) -> None:
        file = tmp_path / "key"
        file.write_bytes(b"first\n")
        routes = Routes(routes=(Route(name="test", base_url=upstream.url, api_key_file=str(file)),))
        judge = make_judge(QUICK, routes=routes)
        await judge.judge(call("a"))
        if content is None:
            file.unlink()
        else:
            file.write_bytes(content)
        await judge.judge(call("b"))
        file.write_bytes(b"second\n")
        await judge.judge(call("c"))
        seen = [asked.headers["authorization"] for asked in upstream.asked]
        assert seen == ["Bearer first", "Bearer first", "Bearer second"]

    async def test_key_file_that_never_had_a_key_is_a_typed_failure(
        self, upstream: Upstream, make_judge: MakeJudge, tmp_path: Path
    ) -> None:
        file = tmp_path / "key"
        routes = Routes(routes=(Route(name="test", base_url=upstream.url, api_key_file=str(file)),))
        caught = await failure(make_judge(QUICK, routes=routes))
        assert (caught.kind, caught.retryable) == ("key_file", True)
        assert upstream.count == 0

    async def test_what_nobody_foresaw_is_a_typed_failure_that_tells_no_secret(
        self, make_judge: MakeJudge, upstream: Upstream, caplog: pytest.LogCaptureFixture
    ) -> None:
        # `load_routes` refuses such a key.
        route = Route(name="test", base_url=upstream.url)
        judge = make_judge(QUICK, routes=Routes(routes=(route,), api_keys={"test": "sk-é"}))
        caught = await failure(judge, "the prompt")
        assert (caught.kind, caught.retryable) == ("unforeseen", True)
        assert "UnicodeEncodeError" in str(caught)
        told = caplog.records[-1].__dict__
        assert told["fields"]["error"] == "UnicodeEncodeError"
        assert ".py:" in told["fields"]["at"]
        assert "sk-é" not in f"{caught} {told} {caplog.text}"
        assert "the prompt" not in f"{caught} {told} {caplog.text}"

    @pytest.mark.parametrize("value", [{"a": 1}, ["x"], 5, None, "sk secret"])
    async def test_error_bodies_of_any_shape_are_typed(
        self, upstream: Upstream, make_judge: MakeJudge, value: Any
    ) -> None:
        body = json.dumps({"error": {"message": "m", "type": value, "code": value}}).encode()
        upstream.script = lambda asked: Says(status=400, body=body)
        caught = await failure(make_judge(QUICK))
        assert caught.kind == "http_400"
        assert "secret" not in str(caught)

    async def test_organisation_stays_with_openai(
        self, upstream: Upstream, make_judge: MakeJudge, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("OPENAI_ORG_ID", "org-1")
        await make_judge().judge(call())
        assert "openai-organization" not in upstream.asked[0].headers

    async def test_successor_is_visible_and_another_question(
        self, upstream: Upstream, make_judge: MakeJudge
    ) -> None:
        route = Route(name="test", base_url=upstream.url)
        plain = await make_judge(routes=Routes(routes=(route,))).judge(call())
        mapped = Routes(routes=(route,), successors={call().model: "new"})
        reply = await make_judge(routes=mapped).judge(call())
        assert upstream.asked[-1].body["model"] == "new"
        assert reply.diagnostics["successor"] == {"asked": call().model, "answered_by": "new"}
        assert reply.key != plain.key

    async def test_models_are_listed_with_their_end(
        self, upstream: Upstream, make_judge: MakeJudge
    ) -> None:
        body = b'{"data": [{"id": "m", "shutdown_date": "2027-01-14"}, {"id": "n"}]}'
        upstream.script = lambda asked: Says(body=body)
        judge = make_judge(QUICK)
        listed = (await judge.models())["test"]
        assert [(one.id, one.shutdown_date) for one in listed if not isinstance(one, str)] == [
            ("m", "2027-01-14"),
            ("n", None),
        ]
        upstream.script = lambda asked: Says(body=b"?")
        assert (await judge.models())["test"] == "the list of models cannot be read"
        upstream.script = lambda asked: error(401)
        assert (await judge.models())["test"] == "HTTP 401 (some_error)"

    @pytest.mark.parametrize("zipped", [False, True])
    async def test_reply_beyond_its_bound_is_a_failure_that_is_not_tried_again(
        self, zipped: bool, upstream: Upstream, make_judge: MakeJudge
    ) -> None:
        body = completion("x" * 100_000).body
        headers = {"content-encoding": "gzip"} if zipped else {}
        says = Says(body=gzip.compress(body) if zipped else body, headers=headers)
        upstream.script = lambda asked: says
        caught = await failure(make_judge(QUICK, max_reply_bytes=100_000))
        assert (caught.kind, caught.retryable) == ("reply_too_large", False)
        assert str(caught) == "judge route 'test': the reply is larger than 100000 bytes"
        assert upstream.count == 1
        reply = await make_judge(QUICK, max_reply_bytes=101_000).judge(call())
        assert reply.content == "x" * 100_000

    async def test_embeddings_are_cached_like_judgements(
        self, upstream: Upstream, make_judge: MakeJudge
    ) -> None:
        upstream.script = embeddings
        judge = make_judge()
        asked = EmbeddingCall(model="text-embedding-3-large", texts=("a", "b"))
        one, other = await asyncio.gather(judge.embed(asked), judge.embed(asked))
        again = await judge.embed(asked)
        assert upstream.count == 2
        assert [asked.body["input"] for asked in upstream.asked] == [["a"], ["b"]]
        assert one.vectors == other.vectors == again.vectors
        assert len(one.vectors) == 2
        assert (one.cached, other.cached, again.cached) == (False, True, True)
        assert upstream.asked[0].path == "/v1/embeddings"
        assert one.usage == again.usage == TokenUsage(prompt_tokens=14, total_tokens=14)
        assert (one.diagnostics["attempts"], again.diagnostics["source"]) == (2, "hit_process")

    async def test_texts_are_embedded_once_whatever_they_are_compared_with(
        self, upstream: Upstream, make_judge: MakeJudge
    ) -> None:
        upstream.script = embeddings
        judge = make_judge()
        calls = [EmbeddingCall(model="e", texts=(text, "reference")) for text in ("a", "b", "a")]
        replies = await asyncio.gather(*map(judge.embed, calls))
        assert upstream.count == 3
        assert replies[0].vectors[1] == replies[1].vectors[1]
        assert replies[0].vectors[0] != replies[1].vectors[0]
        assert replies[0].key == replies[2].key != replies[1].key
        same = await judge.embed(EmbeddingCall(model="e", texts=("a", "a")))
        assert same.vectors[0] == same.vectors[1] == replies[0].vectors[0]
        assert same.cached

    async def test_text_that_cannot_be_embedded_fails_the_call(
        self, upstream: Upstream, make_judge: MakeJudge
    ) -> None:
        upstream.script = lambda asked: (
            error(400) if asked.body["input"] == ["bad"] else embeddings(asked)
        )
        judge = make_judge()
        with pytest.raises(EmbedderUnavailableError) as caught:
            await judge.embed(EmbeddingCall(model="e", texts=("good", "bad")))
        assert caught.value.kind == "http_400"
        assert (await judge.embed(EmbeddingCall(model="e", texts=("good",)))).cached

    @pytest.mark.parametrize("vector", [[], [0.0] * 4, [1e308] * 4])
    async def test_vector_without_a_direction_is_asked_again_and_not_kept(
        self, upstream: Upstream, make_judge: MakeJudge, vector: list[float]
    ) -> None:
        body = {"data": [{"index": 0, "embedding": vector}], "model": "e"}
        upstream.script = lambda asked: Says(body=json.dumps(body).encode())
        judge = make_judge(JudgeConfig(retry=RetryPolicy(attempts=1)))
        with pytest.raises(EmbedderUnavailableError) as caught:
            await judge.embed(EmbeddingCall(model="e", texts=("a",)))
        assert (caught.value.kind, caught.value.retryable) == ("bad_reply", True)
        upstream.script = embeddings
        assert not (await judge.embed(EmbeddingCall(model="e", texts=("a",)))).cached

    async def test_text_to_embed_that_json_cannot_carry(
        self, upstream: Upstream, make_judge: MakeJudge
    ) -> None:
        with pytest.raises(EmbedderUnavailableError) as caught:
            await make_judge().embed(EmbeddingCall(model="e", texts=("a", "\ud800")))
        assert (caught.value.kind, caught.value.retryable) == ("unsendable", False)
        assert upstream.count == 0

    @pytest.mark.parametrize("body", [b"{}", b'{"data": []}', b'{"data": [{"embedding": "AA"}]}'])
    async def test_wrong_embeddings_are_a_failure(
        self, upstream: Upstream, make_judge: MakeJudge, body: bytes
    ) -> None:
        upstream.script = lambda asked: Says(body=body)
        judge = make_judge(JudgeConfig(retry=RetryPolicy(attempts=1)))
        with pytest.raises(EmbedderUnavailableError) as caught:
            await judge.embed(EmbeddingCall(model="m", texts=("a",)))
        assert caught.value.kind == "bad_reply"

    async def test_jitter_comes_from_the_given_source(self, upstream: Upstream) -> None:
        upstream.script = then(error(500))
        judge = OpenAIJudge(
            QUICK,
            Routes(routes=(Route(name="test", base_url=upstream.url),)),
            MemoryStore(),
            random=Random(1),
        )
        await judge.judge(call())
        await judge.close()
