"""What goes over the wire and what comes back, for every kind of route."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from graders.errors import JudgeUnavailableError
from graders.grade import TokenUsage
from service.judge import JudgeConfig, RetryPolicy
from tests.fakes_upstream import Says, Upstream, completion, response
from tests.judge.calls import call, schema
from tests.judge.conftest import MakeJudge

GOOD = '{"steps": [], "result": 0.5}'
ONCE = JudgeConfig(retry=RetryPolicy(attempts=1))
PARTS = [
    {"type": "text", "text": "look"},
    {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA==", "detail": "low"}},
    {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}},
]


async def sent(upstream: Upstream, make_judge: MakeJudge, asked: Any, **route: Any) -> Any:
    await make_judge(**route).judge(asked)
    return upstream.asked[-1].body


class TestRequests:
    async def test_strict_schema_is_the_default_and_keeps_its_order(
        self, upstream: Upstream, make_judge: MakeJudge
    ) -> None:
        body = await sent(upstream, make_judge, call())
        form = body["response_format"]
        assert form["type"] == "json_schema"
        assert form["json_schema"]["strict"] is True
        assert form["json_schema"]["name"] == "float_score_classification"
        assert list(form["json_schema"]["schema"]["properties"]) == ["steps", "result"]
        assert body["messages"] == call().messages
        assert set(body) == {"model", "messages", "response_format"}
        headers = upstream.asked[-1].headers
        assert headers["authorization"] == "Bearer sk-secret"
        assert upstream.asked[-1].path == "/v1/chat/completions"

    async def test_stated_sampling_parameters_are_sent_in_the_routes_spelling(
        self, upstream: Upstream, make_judge: MakeJudge
    ) -> None:
        stated = {
            "seed": 42,
            "temperature": 1.0,
            "top_p": None,
            "max_completions_tokens": 99,
            "reasoning_effort": "low",
        }
        body = await sent(upstream, make_judge, call(sampling_params=stated))
        assert (body["seed"], body["temperature"]) == (42, 1)
        assert (body["max_completion_tokens"], body["reasoning_effort"]) == (99, "low")
        assert "top_p" not in body
        body = await sent(
            upstream,
            make_judge,
            call(sampling_params=stated),
            max_tokens_field="max_tokens",
            seed=False,
        )
        assert body["max_tokens"] == 99
        assert "seed" not in body

    async def test_every_content_part_is_carried(
        self, upstream: Upstream, make_judge: MakeJudge
    ) -> None:
        asked = call(messages=[{"role": "user", "content": PARTS}])
        assert (await sent(upstream, make_judge, asked))["messages"][0]["content"] == PARTS

    async def test_upstream_model_and_plain_roles_by_route(
        self, upstream: Upstream, make_judge: MakeJudge
    ) -> None:
        body = await sent(
            upstream, make_judge, call(), upstream_model="local", developer_role=False
        )
        assert body["model"] == "local"
        assert [message["role"] for message in body["messages"]] == ["system", "user"]

    @pytest.mark.parametrize("mode", ["json_object", "prompt"])
    async def test_fallbacks_put_the_schema_ahead_of_the_prompt(
        self, upstream: Upstream, make_judge: MakeJudge, mode: str
    ) -> None:
        body = await sent(upstream, make_judge, call("x"), structured_output=mode)
        assert body.get("response_format") == (
            {"type": "json_object"} if mode == "json_object" else None
        )
        assert [message["role"] for message in body["messages"]] == ["developer", "user"]
        assert body["messages"][0]["content"].startswith("You grade.\n\nAnswer with one JSON")
        bare = call(messages=[{"role": "user", "content": "x"}])
        body = await sent(upstream, make_judge, bare, structured_output=mode)
        assert [message["role"] for message in body["messages"]] == ["system", "user"]

    async def test_responses_api_speaks_its_own_shapes(
        self, upstream: Upstream, make_judge: MakeJudge
    ) -> None:
        upstream.script = lambda asked: response(GOOD)
        stated = {"seed": 1, "max_completions_tokens": 9, "reasoning_effort": "high", "top_p": 0.5}
        messages = [
            {"role": "user", "content": PARTS},
            {"role": "assistant", "content": [{"type": "text", "text": "said"}]},
            {"role": "developer", "content": "plain"},
        ]
        judge = make_judge(api="responses", developer_role=False)
        reply = await judge.judge(call(messages=messages, sampling_params=stated))
        body = upstream.asked[-1].body
        assert upstream.asked[-1].path == "/v1/responses"
        assert body["input"][0]["content"] == [
            {"type": "input_text", "text": "look"},
            {
                "type": "input_image",
                "image_url": "data:image/png;base64,AA==",
                "detail": "low",
            },
            {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}},
        ]
        assert body["input"][1]["content"] == [{"type": "output_text", "text": "said"}]
        assert body["input"][2] == {"role": "system", "content": "plain"}
        assert body["text"]["format"]["type"] == "json_schema"
        assert body["text"]["format"]["strict"] is True
        assert (body["max_output_tokens"], body["reasoning"]) == (9, {"effort": "high"})
        assert (body["top_p"], body["store"]) == (0.5, False)
        assert "seed" not in body
        assert reply.diagnostics["left_out"] == ["seed"]
        assert reply.content == GOOD

    @pytest.mark.parametrize("mode", ["json_object", "prompt"])
    async def test_responses_api_has_the_same_fallbacks(
        self, upstream: Upstream, make_judge: MakeJudge, mode: str
    ) -> None:
        upstream.script = lambda asked: response(f"Here:\n```json\n{GOOD}\n```")
        judge = make_judge(api="responses", structured_output=mode)
        assert (await judge.judge(call())).content == GOOD
        assert "JSON schema" in upstream.asked[-1].text


class TestReplies:
    async def test_answer_carries_usage_and_the_model_that_answered(
        self, upstream: Upstream, make_judge: MakeJudge
    ) -> None:
        upstream.script = lambda asked: completion(GOOD, model="snapshot", usage=(50, 5, 40))
        reply = await make_judge().judge(call())
        assert (reply.content, reply.model, reply.finish_reason) == (GOOD, "snapshot", "stop")
        assert reply.usage == TokenUsage(
            prompt_tokens=50, completion_tokens=5, total_tokens=55, cached_tokens=40
        )
        assert not reply.cached
        assert len(reply.key) == 64

    async def test_refusal_travels(self, upstream: Upstream, make_judge: MakeJudge) -> None:
        upstream.script = lambda asked: completion(None, refusal="I will not.")
        reply = await make_judge().judge(call())
        assert (reply.content, reply.refusal) == (None, "I will not.")
        upstream.script = lambda asked: response(None, refusal="I will not.")
        reply = await make_judge(api="responses").judge(call())
        assert (reply.content, reply.refusal) == (None, "I will not.")

    @pytest.mark.parametrize(
        ("says", "api", "reason"),
        [
            (completion('{"st', finish_reason="length"), "chat_completions", "length"),
            (completion("", finish_reason="content_filter"), "chat_completions", "content_filter"),
            (response('{"st', incomplete="max_output_tokens"), "responses", "length"),
            (response("", incomplete="content_filter"), "responses", "content_filter"),
        ],
        ids=["chat_length", "chat_filter", "responses_length", "responses_filter"],
    )
    async def test_cut_off_answers_say_why_and_are_not_cached(
        self, upstream: Upstream, make_judge: MakeJudge, says: Says, api: str, reason: str
    ) -> None:
        upstream.script = lambda asked: says
        judge = make_judge(api=api)
        assert (await judge.judge(call())).finish_reason == reason
        assert not (await judge.judge(call())).cached
        assert upstream.count == 2

    async def test_content_in_parts_is_joined(
        self, upstream: Upstream, make_judge: MakeJudge
    ) -> None:
        texts = ('{"steps": []', ', "result": 1}')
        parts = msgspec.json.encode([{"type": "text", "text": text} for text in texts])
        body = b'{"choices":[{"message":{"content":' + parts + b"}}]}"
        upstream.script = lambda asked: Says(body=body)
        reply = await make_judge(upstream_model="m").judge(call())
        assert reply.content == '{"steps": [], "result": 1}'
        assert (reply.model, reply.usage) == ("m", TokenUsage())

    @pytest.mark.parametrize(
        ("body", "api"),
        [
            (b"<html>busy</html>", "chat_completions"),
            (b"", "chat_completions"),
            (b'{"choices": []}', "chat_completions"),
            (b'{"choices": [{"message": {"content": 7}}]}', "chat_completions"),
            (b"[" * 5000, "chat_completions"),
            (b'"\xff"', "chat_completions"),
            (b'{"output": 1}', "responses"),
            (b'{"output": [], "status": "failed"}', "responses"),
            (b'{"output": [], "status": "queued"}', "responses"),
        ],
    )
    async def test_body_that_is_not_the_api_is_a_failure_and_never_an_answer(
        self, upstream: Upstream, make_judge: MakeJudge, body: bytes, api: str
    ) -> None:
        upstream.script = lambda asked: Says(body=body)
        with pytest.raises(JudgeUnavailableError) as caught:
            await make_judge(ONCE, api=api).judge(call())
        assert caught.value.kind == "bad_reply"
        assert caught.value.retryable

    async def test_labels_are_checked_before_caching(
        self, upstream: Upstream, make_judge: MakeJudge
    ) -> None:
        upstream.script = lambda asked: completion('{"steps": [], "result": "other"}')
        asked = call(schema=schema({"type": "string", "enum": ["good", "bad"]}))
        judge = make_judge()
        assert (await judge.judge(asked)).content == '{"steps": [], "result": "other"}'
        assert not (await judge.judge(asked)).cached
