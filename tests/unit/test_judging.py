"""What judges are asked and how their replies are read, by score_model and label_model alike."""

import json
from typing import Any

import pytest

from graders.building import Options
from graders.engine import CompiledGrader, compile_grader
from graders.errors import JudgeUnavailableError
from graders.grade import Grade
from graders.ports import JudgeCall, JudgeReply, Ports
from graders.sample import Sample
from tests.fakes import MODEL, USAGE, FakeJudge, reply, verdict

SCORE: dict[str, Any] = {
    "type": "score_model",
    "name": "g",
    "model": "gpt-4o-2024-08-06",
    "input": [{"role": "user", "content": "Rate {{sample.output_text}}"}],
}
LABEL: dict[str, Any] = {
    **SCORE,
    "type": "label_model",
    "labels": ["good", "bad", "1"],
    "passing_labels": ["good", "1"],
}


def compiled(definition: dict[str, Any]) -> CompiledGrader:
    return compile_grader(definition, Options(), purpose="run")


async def asked(definition: dict[str, Any], sample: str = "x", **item: Any) -> JudgeCall:
    judge = FakeJudge(lambda _call: verdict(1))
    await compiled(definition).grade(item, Sample(sample), Ports(judge=judge))
    assert judge.asked == 1
    return judge.calls[0]


async def graded(definition: dict[str, Any], answer: JudgeReply) -> Grade:
    judge = FakeJudge(lambda _call: answer)
    return await compiled(definition).grade({}, Sample("x"), Ports(judge=judge))


def result(value: Any) -> JudgeReply:
    return reply(json.dumps({"steps": [], "result": value}))


class TestRequest:
    async def test_messages_go_out_in_order_and_unchanged(self) -> None:
        messages = [
            {"role": "developer", "content": "Be strict."},
            {"role": "user", "content": "Rate {{sample.output_text}} against {{item.r}}"},
            {"role": "assistant", "content": "Yes."},
        ]
        call = await asked({**SCORE, "input": messages}, "ab", r=[1.0, True, None])
        assert call.messages == [
            {"role": "developer", "content": "Be strict."},
            {"role": "user", "content": "Rate ab against [1.0, true, null]"},
            {"role": "assistant", "content": "Yes."},
        ]
        assert call.model == "gpt-4o-2024-08-06"
        assert call.sampling_params == {}

    async def test_content_parts_take_chat_completions_shape(self) -> None:
        content = [
            "plain {{item.a}}",
            {"type": "input_text", "text": "text {{item.a}}"},
            {"type": "output_text", "text": "out"},
            {"type": "input_image", "image_url": "{{item.url}}", "detail": "low", "file_id": None},
            {"type": "input_image", "image_url": "https://example.com/b.png"},
            {"type": "input_audio", "input_audio": {"data": "{{item.a}}", "format": "mp3"}},
        ]
        definition = {**SCORE, "input": [{"role": "user", "content": content}]}
        call = await asked(definition, a="A", url="https://example.com/a.png")
        image = {"url": "https://example.com/a.png", "detail": "low"}
        assert call.messages[0]["content"] == [
            {"type": "text", "text": "plain A"},
            {"type": "text", "text": "text A"},
            {"type": "text", "text": "out"},
            {"type": "image_url", "image_url": image},
            {"type": "image_url", "image_url": {"url": "https://example.com/b.png"}},
            {"type": "input_audio", "input_audio": {"data": "A", "format": "mp3"}},
        ]

    async def test_single_content_object_is_sent_as_an_array_of_one(self) -> None:
        part = {"type": "input_text", "text": "Rate {{sample.output_text}}"}
        call = await asked({**SCORE, "input": [{"role": "user", "content": part}]}, "ab")
        assert call.messages == [
            {"role": "user", "content": [{"type": "text", "text": "Rate ab"}]},
        ]

    async def test_stated_sampling_params_go_out_and_no_others(self) -> None:
        params = {"seed": 42, "temperature": 0, "top_p": None, "max_tokens": 64, "unknown": 1}
        call = await asked({**SCORE, "sampling_params": params})
        assert call.sampling_params == {
            "seed": 42,
            "temperature": 0.0,
            "max_completions_tokens": 64,
        }

    async def test_score_schema_names_the_range(self) -> None:
        call = await asked({**SCORE, "range": [-1, 7]})
        assert call.schema_name == "float_score_classification"
        assert list(call.schema["properties"]) == ["steps", "result"]
        assert call.schema["additionalProperties"] is False
        assert call.schema["required"] == ["steps", "result"]
        assert call.schema["properties"]["result"] == {
            "type": "number",
            "description": "The float score assigned to the response. "
            "This should be in inclusive range -1.0 to 7.0.",
        }

    async def test_label_schema_lists_the_labels(self) -> None:
        call = await asked(LABEL)
        assert call.schema_name == "label_classification"
        assert call.schema["properties"]["result"] == {
            "type": "string",
            "enum": ["good", "bad", "1"],
        }

    async def test_missing_variable_asks_nobody(self) -> None:
        judge = FakeJudge(lambda _call: verdict(1))
        definition = {**SCORE, "input": [{"role": "user", "content": "{{item.absent}}"}]}
        grade = await compiled(definition).grade({}, Sample("x"), Ports(judge=judge))
        assert [failure.code for failure in grade.failures] == ["invalid_variable"]
        assert judge.asked == 0


class TestScore:
    @pytest.mark.parametrize(
        ("value", "reward"),
        [
            (0.75, 0.75),
            (1, 1.0),
            (0, 0.0),
            (1.7, 1.0),
            (-3, 0.0),
            (10**400, 1.0),
            (-(10**400), 0.0),
        ],
    )
    async def test_number_is_clamped_into_the_range(self, value: float, reward: float) -> None:
        grade = await graded(SCORE, result(value))
        assert grade.ok
        assert grade.reward == reward

    @pytest.mark.parametrize(("value", "reward"), [(0, 1.0), (99, 10.0), (4.5, 4.5)])
    async def test_range_that_excludes_zero_clamps_zero_too(
        self, value: float, reward: float
    ) -> None:
        grade = await graded({**SCORE, "range": [1, 10]}, result(value))
        assert grade.ok
        assert grade.reward == reward

    @pytest.mark.parametrize(
        "content",
        [
            '{"steps": [], "result": "0.8"}',
            '{"steps": [], "result": true}',
            '{"steps": [], "result": false}',
            '{"steps": [], "result": null}',
            '{"steps": [], "result": [0.8]}',
            '{"steps": [], "result": {"score": 0.8}}',
            '{"steps": [], "result": NaN}',
            '{"steps": [], "result": Infinity}',
            '{"steps": [], "result": 1e999}',
            '{"steps": [], "score": 0.8}',
            '{"steps": []}',
            "{}",
            "0.8",
            "[0.8]",
            '"0.8"',
            "null",
            "",
            "Score: 7",
            '```json\n{"steps": [], "result": 0.8}\n```',
            '{"steps": [], "result": 0.8} thanks',
            '{"steps": [], "result": 0.8',
            "[" * 100_000,
        ],
        ids=range(22),
    )
    async def test_anything_but_a_number_is_a_parse_error_worth_literal_zero(
        self, content: str
    ) -> None:
        grade = await graded({**SCORE, "range": [1, 10]}, reply(content))
        assert grade.reward == 0.0
        assert [failure.flag for failure in grade.failures] == ["model_grader_parse_error"]
        assert len(grade.failures[0].message) < 300

    async def test_no_content_is_a_parse_error(self) -> None:
        grade = await graded(SCORE, reply(None))
        assert [failure.code for failure in grade.failures] == ["model_parse"]

    async def test_missing_steps_are_forgiven(self) -> None:
        grade = await graded(SCORE, reply('{"result": 0.5}'))
        assert grade.ok
        assert grade.reward == 0.5


class TestLabel:
    @pytest.mark.parametrize(("label", "reward"), [("good", 1.0), ("1", 1.0), ("bad", 0.0)])
    async def test_passing_label_is_worth_one(self, label: str, reward: float) -> None:
        grade = await graded(LABEL, result(label))
        assert grade.ok
        assert grade.reward == reward

    @pytest.mark.parametrize("value", ["Good", "great", "", 1, True, None, ["good"], {"good": 1}])
    async def test_off_list_result_is_a_parse_error_and_no_failing_label(self, value: Any) -> None:
        grade = await graded(LABEL, result(value))
        assert grade.reward == 0.0
        assert [failure.code for failure in grade.failures] == ["model_parse"]


@pytest.mark.parametrize("definition", [SCORE, LABEL], ids=["score_model", "label_model"])
class TestBoth:
    async def test_refusal_is_its_own_flag(self, definition: dict[str, Any]) -> None:
        grade = await graded(definition, reply(None, refusal="I cannot."))
        assert [failure.flag for failure in grade.failures] == ["model_grader_refusal_error"]
        assert grade.failures[0].message == "the judge refused: 'I cannot.'"
        assert not grade.failures[0].upstream

    async def test_refusal_wins_over_a_result(self, definition: dict[str, Any]) -> None:
        answer = reply('{"steps": [], "result": 1}', refusal="no", finish_reason="length")
        grade = await graded(definition, answer)
        assert [failure.code for failure in grade.failures] == ["model_refusal"]

    async def test_empty_refusal_refuses_nothing(self, definition: dict[str, Any]) -> None:
        content = '{"steps": [], "result": "good"}' if definition is LABEL else '{"result": 1}'
        grade = await graded(definition, reply(content, refusal=""))
        assert grade.ok

    async def test_content_filter_is_a_refusal(self, definition: dict[str, Any]) -> None:
        grade = await graded(definition, reply("", finish_reason="content_filter"))
        assert [failure.code for failure in grade.failures] == ["model_refusal"]

    async def test_token_limit_is_its_own_flag(self, definition: dict[str, Any]) -> None:
        grade = await graded(definition, reply('{"steps": [', finish_reason="length"))
        assert [failure.flag for failure in grade.failures] == [
            "model_grader_exceeded_max_tokens_error"
        ]

    async def test_failed_reply_keeps_its_cost_and_its_model(
        self, definition: dict[str, Any]
    ) -> None:
        grade = await graded(definition, reply("no JSON", diagnostics={"attempts": 2}))
        assert grade.usage == {MODEL: USAGE}
        assert grade.sampled_model_name == MODEL
        assert grade.judgements == (f"judge:{MODEL}:reply-key",)
        assert grade.diagnostics == {"": {"attempts": 2, "cached": False}}

    async def test_unreachable_judge_is_upstream_and_retryable(
        self, definition: dict[str, Any]
    ) -> None:
        judge = FakeJudge(lambda _call: JudgeUnavailableError("down", retry_after_s=3.0))
        grade = await compiled(definition).grade({}, Sample("x"), Ports(judge=judge))
        failure = grade.upstream_failure
        assert failure is not None
        assert failure.flag == "model_grader_server_error"
        assert failure.retryable
        assert failure.retry_after_s == 3.0

    async def test_process_without_judge_says_so_and_never_scores(
        self, definition: dict[str, Any]
    ) -> None:
        grade = await compiled(definition).grade({}, Sample("x"), Ports())
        failure = grade.upstream_failure
        assert failure is not None
        assert failure.kind == "not_available"
        assert not failure.retryable
