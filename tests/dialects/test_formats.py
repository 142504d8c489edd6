"""What is particular to each dialect; bodies follow the generations of wire-protocols B.2."""

from __future__ import annotations

import math
import sys
from typing import Any, ClassVar

import msgspec
import pytest

from graders.errors import RowError
from service.dialects import DIALECTS, nemo_gym
from service.dialects.contract import Graded
from service.wire import RowResult
from tests.dialects.world import options, reading, row

PARTS = RowResult(reward=0.25, ok=True, passed=False, sub_rewards={"a": 1.0, "b": 0.5})
PLAIN = RowResult(reward=1.0, ok=True, passed=True)


def answered(dialect: str, body: Any, results: list[RowResult], query: str = "") -> Any:
    """Return the reply to ``body`` for these results."""
    graded = Graded(
        memo=reading(dialect, body, query).memo,
        results=results,
        options=options(dialect, query),
        grader="capital",
        version=3,
    )
    return msgspec.json.decode(msgspec.json.encode(DIALECTS[dialect].reply(graded)))


class TestOpenRLHF:
    @pytest.mark.parametrize(
        ("body", "items", "texts"),
        [
            # v0.3 - v0.5.1 (707b1060)
            ({"query": ["Q: A"]}, [{}], ["Q: A"]),
            # v0.5.8 (99c320f1)
            ({"query": ["Q: A", "R: B"], "prompts": ["Q: ", "R: "]},
             [{"prompt": "Q: "}, {"prompt": "R: "}], ["A", "B"]),
            # v0.6.0 (1eb14991) and head, with a start token before the prompt
            ({"query": ["<s>Q: A</s>"], "prompts": ["Q: "], "labels": ["A"]},
             [{"prompt": "Q: ", "label": "A"}], ["A"]),
            ({"query": ["A"], "prompts": [""], "labels": [None]},
             [{"prompt": ""}], ["A"]),
            ({"query": ["A"], "prompts": [[{"role": "user"}]]},
             [{"prompt": [{"role": "user"}]}], ["A"]),
        ],
    )  # fmt: skip
    def test_every_generation(self, body: Any, items: list[Any], texts: list[str]) -> None:
        rows = reading("openrlhf", body).rows
        assert [item for item, _ in rows] == items
        assert [sample.output_text for _, sample in rows] == texts

    def test_a_query_without_its_prompt_is_refused(self) -> None:
        body = {"query": ["cut off: A"], "prompts": ["not there"]}
        with pytest.raises(RowError, match="sample=query grades the whole"):
            reading("openrlhf", body)
        ((_, sample),) = reading("openrlhf", body, "sample=query").rows
        assert sample.output_text == "cut off: A"

    def test_lists_of_other_lengths_are_refused(self) -> None:
        with pytest.raises(RowError, match="labels has 1 entries, query has 2"):
            reading("openrlhf", {"query": ["a", "b"], "labels": ["x"]})

    def test_further_columns_are_taken_row_by_row(self) -> None:
        body = {"query": ["a", "b"], "level": [1, 2], "set": "dev"}
        rows = reading("openrlhf", body, "item.level=level&item.set=set").rows
        assert [item for item, _ in rows] == [
            {"level": 1, "set": "dev"},
            {"level": 2, "set": "dev"},
        ]

    def test_sub_rewards_go_to_the_logs(self) -> None:
        body = {"query": ["a", "b"]}
        assert answered("openrlhf", body, [PARTS, PLAIN]) == {
            "rewards": [0.25, 1.0],
            "extra_logs": {"a": [1.0, 0.0], "b": [0.5, 0.0]},
        }


class TestSlime:
    def test_messages_stay_messages(self) -> None:
        prompt = [{"role": "user", "content": "q"}]
        body = {"prompt": prompt, "response": "r", "label": None}  # slime's "no label"
        assert row("slime", body)[0] == {"prompt": prompt}

    def test_the_object_form(self) -> None:
        example = DIALECTS["slime"].example
        assert answered("slime", example, [PARTS], "reply=object") == {
            "reward": 0.25, "ok": True, "a": 1.0, "b": 0.5,
        }  # fmt: skip


class TestNeMoGym:
    EXAMPLE: Any = DIALECTS["nemo-gym"].example

    def test_the_item_is_the_dataset_row(self) -> None:
        item, sample = row("nemo-gym", {**self.EXAMPLE, "options": ["a"]}, "prompt=question")
        assert item.keys() == {"responses_create_params", "label", "options", "question"}
        assert item["question"] == "Capital of France?"
        assert sample["output_text"] == "Paris"

    def test_a_text_input_is_the_prompt(self) -> None:
        body = {**self.EXAMPLE, "responses_create_params": {"input": "q"}}
        assert row("nemo-gym", body, "prompt=p")[0]["p"] == "q"

    @pytest.mark.parametrize(
        "change",
        [
            {"responses_create_params": None},
            {"responses_create_params": {"input": 3}},
            {"responses_create_params": {"input": ["x"]}},
            {"response": None},
            {"response": {"output": "x"}},
        ],
    )
    def test_what_cannot_be_read(self, change: Any) -> None:
        with pytest.raises(RowError, match=next(iter(change))):
            reading("nemo-gym", {**self.EXAMPLE, **change})

    def test_the_request_is_echoed_with_the_reward(self) -> None:
        assert answered("nemo-gym", self.EXAMPLE, [PLAIN]) == {**self.EXAMPLE, "reward": 1.0}

    def test_a_row_with_a_field_named_reward_is_not_written_twice(self) -> None:
        body = {**self.EXAMPLE, "reward": 9}
        known = DIALECTS["nemo-gym"]
        graded = Graded(
            memo=reading("nemo-gym", body).memo, results=[PLAIN], options=options("nemo-gym"),
            grader="g", version=1,
        )  # fmt: skip
        assert msgspec.json.encode(known.reply(graded)).count(b'"reward"') == 1
        assert answered("nemo-gym", body, [PLAIN])["reward"] == 1.0

    def test_components_add_up_to_the_reward(self) -> None:
        query = "reward_components=on"
        answer = answered("nemo-gym", self.EXAMPLE, [PARTS], query)
        assert sum(answer["reward_components"].values()) == pytest.approx(0.25)
        assert answer["sub_reward_a"] == 1.0
        single = answered("nemo-gym", self.EXAMPLE, [PLAIN], query)
        assert single["reward_components"] == {"reward": 1.0}

    def test_metrics_leave_masked_rows_out(self) -> None:
        rows: list[dict[str, Any]] = [
            {"_ng_task_index": 0, "reward": 1.0, "name": "x"},
            {"_ng_task_index": 0, "reward": 0.0},
            {"_ng_task_index": 1, "reward": 1.0},
            {"_ng_task_index": 1, "reward": 0.0, "mask_sample": True},
            {"_ng_task_index": 1, "reward": 0.0, "_ng_failure_class": "judge_failed"},
        ]
        found = nemo_gym.aggregate(nemo_gym.AggregateRequest(verify_responses=rows))
        assert found.key_metrics == {"mean/reward": pytest.approx(2 / 3)}
        assert found.agent_metrics["max/reward"] == 1.0
        assert [group["mean/reward"] for group in found.group_level_metrics] == [0.5, 1.0]
        assert found.group_level_metrics[1]["std/reward"] == 0.0
        empty = nemo_gym.aggregate(nemo_gym.AggregateRequest(verify_responses=[]))
        assert empty.agent_metrics == {}

    def test_metrics_of_the_largest_numbers_are_finite(self) -> None:
        largest = sys.float_info.max
        rows: list[dict[str, Any]] = [
            {"reward": largest, "label": 10**400, "far": -largest},
            {"reward": largest, "label": 3, "far": largest},
        ]
        found = nemo_gym.aggregate(nemo_gym.AggregateRequest(verify_responses=rows))
        metrics = found.agent_metrics
        assert metrics["mean/reward"] == metrics["median/reward"] == largest
        assert (metrics["mean/far"], metrics["median/far"], metrics["std/reward"]) == (0, 0, 0)
        assert metrics["std/far"] == largest  # the true one is beyond it
        assert not any("label" in key for key in metrics)  # no double, so no statistics
        assert all(math.isfinite(value) for value in metrics.values())

    def test_metrics_take_any_task_index(self) -> None:
        rows: list[dict[str, Any]] = [{"_ng_task_index": ["odd"], "reward": 1.0}]
        found = nemo_gym.aggregate(nemo_gym.AggregateRequest(verify_responses=rows))
        assert found.group_level_metrics[0]["_ng_task_index"] == "['odd']"


class TestAws:
    SAMPLE: Any = DIALECTS["aws"].example[0]
    OPEN: ClassVar[Any] = {
        "id": 7,
        "messages": [
            {"role": "user", "content": [{"text": "q"}]},
            {"role": "nova_assistant", "content": [{"text": "Par"}, {"text": "is"}]},
        ],
        "metadata": {"reference_answer": {"text": "Paris"}, "level": 2},
    }

    def test_nova(self) -> None:
        item, sample = row("aws", [self.SAMPLE])
        assert item["reference_answer"] == "Paris"
        assert item["prompt"] == "Capital of France?"
        assert item["id"] == "sample_1"
        assert [message["role"] for message in item["messages"]] == ["user"]
        assert sample["output_text"] == "Paris"

    def test_open_weights(self) -> None:
        item, sample = row("aws", [self.OPEN], "label=truth")
        assert item["truth"] == {"text": "Paris"}
        assert item["level"] == 2
        assert sample["output_text"] == "Paris"

    @pytest.mark.parametrize(
        ("body", "enveloped"),
        [
            ([SAMPLE], False),
            ([OPEN], True),
            ({"trajectories": [OPEN]}, True),
            ({"batch": [SAMPLE]}, True),
            ({"body": msgspec.json.encode({"batch": [OPEN]}).decode()}, True),
            ({"body": msgspec.json.encode([SAMPLE]).decode(), "headers": {}}, True),
        ],
        ids=["nova", "open", "trajectories", "batch", "http-batch", "http-list"],
    )
    def test_every_envelope(self, body: Any, *, enveloped: bool) -> None:
        answer = answered("aws", body, [PARTS])
        if enveloped:
            assert answer["statusCode"] == 200
            answer = msgspec.json.decode(answer["body"])
        assert answer[0]["aggregate_reward_score"] == 0.25
        assert answer[0]["id"] in {"sample_1", 7}
        assert answer[0]["metrics_list"][0] == {"name": "a", "value": 1.0, "type": "Metric"}

    def test_the_envelope_can_be_chosen(self) -> None:
        assert isinstance(answered("aws", [self.OPEN], [PLAIN], "envelope=list"), list)
        assert "body" in answered("aws", [self.SAMPLE], [PLAIN], "envelope=http")

    @pytest.mark.parametrize(
        ("body", "message"),
        [
            ({}, "expected a list of samples"),
            ({"body": "{"}, "body: expected a text that holds JSON"),
            (["x"], "sample 0: expected an object with a list 'messages'"),
            ([{"messages": ["x"]}], "sample 0: every message must be an object"),
            ([{"messages": []}], "sample 0: the conversation does not end"),
        ],
    )
    def test_what_cannot_be_read(self, body: Any, message: str) -> None:
        with pytest.raises(RowError, match=message):
            reading("aws", body)


def test_google_has_the_references_as_item_and_sub_rewards_as_info() -> None:
    example = DIALECTS["google"].example
    item, sample = row("google", example)
    assert item["label"] == "Paris"
    assert item["prompt"] == "Capital of France?"
    assert sample["output_text"] == "Paris"
    answer = answered("google", example, [PARTS])
    assert msgspec.json.decode(answer["user_requested_aux_info"]) == {"a": 1.0, "b": 0.5}


def test_azure_takes_sample_and_item_as_they_are() -> None:
    example: Any = DIALECTS["azure-endpoint"].example
    item, sample = row("azure-endpoint", example)
    assert item == example["item"]
    assert sample == example["sample"]


class TestPromptfoo:
    def test_outputs_that_are_json(self) -> None:
        body = {"output": {"city": "Paris"}, "context": {"vars": {}}}
        assert row("promptfoo", body)[1]["output_json"] == {"city": "Paris"}

    def test_the_reason_names_the_parts(self) -> None:
        example = DIALECTS["promptfoo"].example
        answer = answered("promptfoo", example, [PARTS])
        assert answer == {"pass": False, "score": 0.25, "reason": "capital@3: 0.25, a 1, b 0.5"}


class TestLangfuse:
    @pytest.mark.parametrize("key", ["itemExpectedOutput", "expectedOutput"])
    def test_both_names_of_the_expected_output(self, key: str) -> None:
        body = {"payload": {"observation": {"output": "a"}, "experiment": {key: "b"}}}
        assert row("langfuse", body)[0]["expected_output"] == "b"

    def test_tool_calls_beside_a_text(self) -> None:
        call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
        body = {"payload": {"observation": {"output": "a", "toolCalls": [call]}}}
        sample = row("langfuse", body)[1]
        assert (sample["output_text"], sample["output_tools"]) == ("a", [call])

    def test_an_observation_without_output_is_an_empty_text(self) -> None:
        item, sample = row("langfuse", {"payload": {"observation": {"input": {"q": 1}}}})
        assert sample["output_text"] == ""
        assert item["input"] == {"q": 1}

    def test_scores_are_named_after_the_grader_or_as_asked(self) -> None:
        example = DIALECTS["langfuse"].example
        answer = answered("langfuse", example, [PARTS], "score_name=quality")
        names = [score["name"] for score in answer["scores"]]
        assert names == ["quality", "quality.a", "quality.b"]


class TestEvalProtocol:
    def test_flat_and_nested_arguments(self) -> None:
        example: Any = DIALECTS["eval-protocol"].example
        item, _ = row("eval-protocol", {**example, "level": 1, "kwargs": {"set": "dev"}})
        assert (item["level"], item["set"], item["ground_truth"]) == (1, "dev", "Paris")

    @pytest.mark.parametrize(
        "body", [{}, {"messages": "x"}, {"messages": [1]}, {"messages": [], "kwargs": 1}]
    )
    def test_what_cannot_be_read(self, body: Any) -> None:
        with pytest.raises(RowError):
            reading("eval-protocol", body)

    def test_sub_rewards_are_metrics(self) -> None:
        answer = answered("eval-protocol", DIALECTS["eval-protocol"].example, [PARTS])
        assert answer["metrics"]["a"] == {
            "score": 1.0, "is_score_valid": True, "success": True, "reason": "capital@3#a",
        }  # fmt: skip


class TestRoll:
    def test_cases_without_a_ground_truth(self) -> None:
        body = {"prompt": "p", "response": "r", "reward_info": {"test_cases": [1]}}
        assert row("roll", body)[0] == {"test_cases": [1], "prompt": "p"}

    @pytest.mark.parametrize(("asked", "given"), [(0, 1.0), (300, 300.0), (1e9, 600.0)])
    def test_the_timeout_is_bounded(self, asked: float, given: float) -> None:
        body = {"prompt": "p", "response": "r", "timeout": asked}
        assert reading("roll", body).memo == given

    def test_sub_rewards_have_the_shape_that_roll_walks(self) -> None:
        answer = answered("roll", DIALECTS["roll"].example, [PARTS])
        assert answer["dimention_reward_score"]["a"] == {"score": 1.0, "debug_info": {}}
