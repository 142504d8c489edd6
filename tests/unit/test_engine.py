"""Compiling definitions and grading samples, mostly with `multi`, where everything meets."""

import asyncio
import hashlib
from collections.abc import Awaitable
from typing import Any

import pytest

from graders.building import Options
from graders.engine import ENGINE_VERSION, CompiledGrader, compile_grader, digest_of
from graders.errors import DefinitionError, JudgeUnavailableError
from graders.grade import Grade
from graders.metrics import PROFILE
from graders.ports import JudgeCall, JudgeReply, Ports, SandboxResult
from graders.sample import Sample
from tests.fakes import USAGE, FakeJudge, FakeSandbox, reply, verdict

EXACT = {
    "type": "string_check",
    "name": "exact",
    "operation": "eq",
    "input": "{{sample.output_text}}",
    "reference": "{{item.a}}",
}
SIMILAR = {
    "type": "text_similarity",
    "name": "similar",
    "evaluation_metric": "fuzzy_match",
    "input": "{{sample.output_text}}",
    "reference": "{{item.b}}",
}
CODE = {"type": "python", "name": "code", "source": "def grade(sample, item): return 1.0"}


def judge_of(model: str) -> dict[str, Any]:
    message = {"role": "user", "content": "Rate {{sample.output_text}}"}
    return {"type": "score_model", "name": model, "model": model, "input": [message]}


def multi(formula: str, **graders: dict[str, Any]) -> dict[str, Any]:
    return {"type": "multi", "name": "m", "graders": graders, "calculate_output": formula}


def compiled(raw: dict[str, Any], options: Options | None = None) -> CompiledGrader:
    return compile_grader(raw, options or Options(), purpose="store")


class TestCompile:
    def test_pure_definitions_are_known_as_such(self) -> None:
        assert compiled(EXACT).is_pure
        assert compiled(multi("a + b", a=EXACT, b=SIMILAR)).is_pure
        assert not compiled(CODE).is_pure
        assert not compiled(multi("a + b", a=EXACT, b=CODE)).is_pure

    def test_paths_name_every_variable(self) -> None:
        paths = compiled(multi("a + b", a=EXACT, b=SIMILAR)).paths
        assert paths is not None
        assert {str(path) for path in paths} == {"sample.output_text", "item.a", "item.b"}

    @pytest.mark.parametrize(
        "raw",
        [
            CODE,
            {"type": "endpoint", "name": "e", "url": "https://example.com/"},
            multi("a + b", a=EXACT, b=CODE),
            multi("a + b", a=CODE, b=EXACT),
        ],
        ids=["python", "endpoint", "multi", "multi, code first"],
    )
    def test_grader_that_hands_the_item_on_needs_all_of_it(self, raw: dict[str, Any]) -> None:
        assert compiled(raw).paths is None

    def test_stated_threshold_wins_over_the_default(self) -> None:
        stated = compiled({**EXACT, "pass_threshold": 0.3})
        assert (stated.threshold, stated.threshold_source) == (0.3, "definition")
        assert (compiled(EXACT).threshold, compiled(EXACT).threshold_source) == (1.0, "default")
        zero = compiled({**EXACT, "pass_threshold": 0})
        assert (zero.threshold, zero.threshold_source) == (0.0, "definition")

    def test_signature_names_what_decides_a_reward(self) -> None:
        digest = digest_of(EXACT)
        assert compiled(EXACT).signature == f"{digest}|engine:{ENGINE_VERSION}|render:json"
        python = compiled(EXACT, Options(rendering="python"))
        assert python.signature == f"{digest}|engine:{ENGINE_VERSION}|render:python"
        raw = multi("a + b", a=EXACT, b=SIMILAR)
        assert compiled(raw).signature.endswith(f"|render:json|metrics:{PROFILE}")

    def test_digest_is_of_the_document_as_posted(self) -> None:
        listed = {**multi("exact"), "graders": [EXACT]}
        assert compiled(listed).digest == digest_of(listed)
        assert compiled(listed).digest != digest_of(compiled(listed).document)

    def test_warnings_come_from_reading_and_from_building(self) -> None:
        raw = multi("a", a={**EXACT, "operation": "neq"}, b=EXACT)
        assert [warning.code for warning in compiled(raw).warnings] == [
            "renamed_value",
            "unused_grader",
        ]

    def test_stored_definition_needs_a_name_and_a_run_does_not(self) -> None:
        nameless = {key: value for key, value in EXACT.items() if key != "name"}
        assert compile_grader(nameless, Options(), purpose="run").grader.name is None
        with pytest.raises(DefinitionError) as raised:
            compiled(nameless)
        findings = raised.value.findings
        assert [finding.code for finding in findings if finding.severity == "error"] == [
            "missing_required_parameter"
        ]

    def test_cosine_is_for_stored_definitions_only(self) -> None:
        cosine = {**SIMILAR, "evaluation_metric": "cosine"}
        assert not compiled(cosine).is_pure
        for purpose in ("run", "validate"):
            with pytest.raises(DefinitionError):
                compile_grader(cosine, Options(), purpose=purpose)

    def test_fault_hidden_by_another_is_not_reported_twice(self) -> None:
        raw = multi("a + b", a={"type": "nonsense"}, b=EXACT)
        with pytest.raises(DefinitionError) as raised:
            compiled(raw)
        assert [finding.pointer for finding in raised.value.findings] == ["/graders/a/type"]

    def test_type_is_the_json_type(self) -> None:
        assert compiled(multi("a", a=EXACT)).type == "multi"


class TestDigest:
    def test_digest_is_sha256_of_canonical_json(self) -> None:
        canonical = '{"a":["é",1,1.5,true,null],"b":{}}'
        expected = hashlib.sha256(canonical.encode()).hexdigest()
        assert digest_of({"b": {}, "a": ["é", 1, 1.5, True, None]}) == f"sha256:{expected}"

    def test_present_and_absent_defaults_are_different_documents(self) -> None:
        judge = judge_of("m")
        assert digest_of(judge) != digest_of({**judge, "range": [0, 1]})

    def test_deep_document_is_refused_instead_of_recursing(self) -> None:
        deep: Any = 1
        for _ in range(100_000):
            deep = [deep]
        with pytest.raises(DefinitionError):
            digest_of(deep)


class TestGrade:
    async def test_single_grader_has_no_sub_rewards(self) -> None:
        grade = compiled(EXACT).grade_now({"a": "x"}, Sample("x"))
        assert grade.reward == 1.0
        assert grade.sub_rewards == {}
        assert grade == await compiled(EXACT).grade({"a": "x"}, Sample("x"), Ports())

    def test_multi_names_every_part(self) -> None:
        grader = compiled(multi("0.25 * a + b", a=EXACT, b=SIMILAR))
        grade = grader.grade_now({"a": "x", "b": "y"}, Sample("x"))
        assert grade.sub_rewards == {"a": 1.0, "b": 0.0}
        assert grade.reward == 0.25

    @pytest.mark.parametrize(
        ("formula", "reward"), [("a * 10", 10.0), ("-a", -1.0), ("a - 1.5", -0.5), ("7", 7.0)]
    )
    def test_result_of_a_formula_is_not_clamped(self, formula: str, reward: float) -> None:
        grade = compiled(multi(formula, a=EXACT)).grade_now({"a": "x"}, Sample("x"))
        assert grade.ok
        assert grade.reward == reward

    def test_failed_part_counts_zero_and_its_flag_rises(self) -> None:
        grader = compiled(multi("a + 0.5", a=EXACT))
        grade = grader.grade_now({}, Sample("x"))
        assert grade.reward == 0.5
        assert grade.sub_rewards == {"a": 0.0}
        assert [(failure.part, failure.code) for failure in grade.failures] == [
            ("a", "invalid_variable")
        ]

    def test_undefined_formula_is_other_error_worth_zero(self) -> None:
        grader = compiled(multi("1 / a", a=EXACT))
        grade = grader.grade_now({"a": "y"}, Sample("x"))
        assert grade.reward == 0.0
        assert grade.sub_rewards == {"a": 0.0}
        assert [(failure.part, failure.flag) for failure in grade.failures] == [
            (None, "other_error")
        ]

    def test_failures_of_parts_and_formula_come_together(self) -> None:
        grade = compiled(multi("log(a)", a=EXACT)).grade_now({}, Sample("x"))
        assert [failure.code for failure in grade.failures] == [
            "invalid_variable",
            "formula_evaluation",
        ]

    async def test_multi_mixes_pure_and_asking_parts(self) -> None:
        grader = compiled(multi("a + b + c", a=EXACT, b=judge_of("m"), c=CODE))
        ports = Ports(
            judge=FakeJudge(lambda _call: verdict(0.25)),
            sandbox=FakeSandbox(lambda _run: SandboxResult(outcome="value", value=3.0)),
        )
        grade = await grader.grade({"a": "x"}, Sample("x"), ports)
        assert grade.ok
        assert grade.reward == 4.25
        assert grade.sub_rewards == {"a": 1.0, "b": 0.25, "c": 3.0}
        assert set(grade.diagnostics) == {"b", "c"}

    def test_requests_are_what_the_parts_would_ask(self) -> None:
        asking = {"b": judge_of("m"), "c": CODE, "d": judge_of("n")}
        asking["d"]["input"][0]["content"] = "{{item.missing}}"
        grader = compiled(multi("a + b + c + d", a=EXACT, **asking))
        requests = grader.requests({"a": "x"}, Sample("x"))
        assert set(requests) == {"b", "c"}
        assert isinstance(requests["b"], JudgeCall)
        assert requests["b"].messages == [{"role": "user", "content": "Rate x"}]

    async def test_parts_are_asked_at_the_same_time(self) -> None:
        both_asked = asyncio.Event()

        async def answer() -> JudgeReply:
            if judge.under_way == 2:
                both_asked.set()
            await asyncio.wait_for(both_asked.wait(), timeout=5)
            return verdict(0.5)

        judge = FakeJudge(lambda _call: answer())
        grader = compiled(multi("a + b", a=judge_of("m1"), b=judge_of("m2")))
        grade = await grader.grade({}, Sample("x"), Ports(judge=judge))
        assert grade.reward == 1.0

    async def test_usage_is_summed_by_the_model_that_answered(self) -> None:
        def answer(call: JudgeCall) -> JudgeReply:
            return JudgeReply(content='{"result": 1}', model=call.model, usage=USAGE, key="k")

        raw = multi("a + b + c", a=judge_of("m1"), b=judge_of("m2"), c=judge_of("m1"))
        grade = await compiled(raw).grade({}, Sample("x"), Ports(judge=FakeJudge(answer)))
        assert grade.usage == {"m1": USAGE + USAGE, "m2": USAGE}
        assert sum(usage.total_tokens for usage in grade.usage.values()) == 360
        assert grade.sampled_model_name == "m1"
        assert grade.judgements == ("judge:m1:k", "judge:m2:k", "judge:m1:k")

    async def test_failing_part_spares_the_others_and_is_named(self) -> None:
        def answer(call: JudgeCall) -> JudgeReply | JudgeUnavailableError:
            if call.model == "down":
                return JudgeUnavailableError("down")
            return reply("no JSON") if call.model == "odd" else verdict(0.5)

        raw = multi("a + b + c", a=judge_of("down"), b=judge_of("odd"), c=judge_of("m"))
        grade = await compiled(raw).grade({}, Sample("x"), Ports(judge=FakeJudge(answer)))
        assert grade.reward == 0.5
        assert [(failure.part, failure.code) for failure in grade.failures] == [
            ("a", "judge_unavailable"),
            ("b", "model_parse"),
        ]
        assert grade.upstream_failure is grade.failures[0]

    async def test_part_with_an_empty_key_keeps_its_name(self) -> None:
        raw = {**multi("1"), "graders": {"": judge_of("m")}}
        grade = await compiled(raw).grade({}, Sample("x"), Ports())
        assert [failure.part for failure in grade.failures] == [""]
        assert grade.sub_rewards == {"": 0.0}

    async def test_unexpected_error_of_a_port_is_not_swallowed(self) -> None:
        judge = FakeJudge(lambda _call: ZeroDivisionError("a bug"))
        with pytest.raises(ZeroDivisionError):
            await compiled(judge_of("m")).grade({}, Sample("x"), Ports(judge=judge))

    async def test_cancelled_grading_cancels_its_calls(self) -> None:
        both_asked = asyncio.Event()

        async def never() -> JudgeReply:
            if judge.under_way == 2:
                both_asked.set()
            await asyncio.Event().wait()
            return verdict(1)

        judge = FakeJudge(lambda _call: never())
        grader = compiled(multi("a + b", a=judge_of("m1"), b=judge_of("m2")))
        task = asyncio.create_task(grader.grade({}, Sample("x"), Ports(judge=judge)))
        await both_asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert judge.cancelled == 2


class TestWatch:
    async def test_sees_the_whole_and_every_part_and_changes_nothing(self) -> None:
        watch = Watching()
        ports = Ports(judge=FakeJudge(lambda _call: verdict(0.5)), watch=watch)
        grader = compiled(multi("a + b", a=judge_of("m"), b=EXACT))
        item = {"a": "x"}
        assert (await grader.grade(item, Sample("x"), ports)).reward == 1.5
        assert watch.seen == [
            "multi begins",
            "score_model a begins",
            "score_model a 0.5",
            "string_check b begins",
            "string_check b 1.0",
            "multi 1.5",
        ]

    async def test_sees_a_grader_alone_as_a_part_without_key_and_its_failure(self) -> None:
        watch = Watching()
        ports = Ports(sandbox=FakeSandbox(lambda _run: JudgeUnavailableError("down")), watch=watch)
        grade = await compiled(CODE).grade({}, Sample("x"), ports)
        assert [failure.code for failure in grade.failures] == ["judge_unavailable"]
        assert watch.seen == ["python begins", "python  begins", "python  0.0", "python 0.0"]

    async def test_is_not_shown_what_asks_nothing(self) -> None:
        watch = Watching()
        await compiled(EXACT).grade({"a": "x"}, Sample("x"), Ports(watch=watch))
        assert watch.seen == []


class Watching:
    """Remembers what it was shown, in order."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    async def whole(self, kind: str, grading: Awaitable[Grade]) -> Grade:
        return await self._note(kind, grading)

    async def part(self, kind: str, key: str, grading: Awaitable[Grade]) -> Grade:
        return await self._note(f"{kind} {key}", grading)

    async def _note(self, name: str, grading: Awaitable[Grade]) -> Grade:
        self.seen.append(f"{name} begins")
        grade = await grading
        self.seen.append(f"{name} {grade.reward}")
        return grade
