"""Checks: every example, lint, and a failure that an author can read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from graders.errors import SandboxUnavailableError, UnknownGraderError
from graders.ports import JudgeCall, JudgeReply, Ports
from service.workshop.check import check_subjects, differences
from service.workshop.examples import Example
from service.workshop.explain import indented, shortened
from service.workshop.library import Subject, find_subjects
from service.workshop.results import Result
from tests.fakes import FakeJudge, FakeSandbox, reply, verdict
from tests.workshop.world import (
    CODE,
    COSINE,
    ENDPOINT,
    EXACT,
    JUDGE,
    LABEL,
    OPTIONS,
    draft,
    multi,
    row,
    shown,
    subject,
    terms,
    write,
)

SOME = {"a": {"result": 1}}
ASKED = {"item": {"question": "Why?"}, "model_sample": "So."}


async def checked(one: Subject, **fields: Any) -> list[Result]:
    return await check_subjects([one], OPTIONS, terms(**fields))


def statuses(results: list[Result]) -> list[str]:
    return [result.status for result in results if result.kind == "example"]


async def test_examples_that_are_right_pass(tmp_path: Path) -> None:
    one = subject(tmp_path / "g", EXACT, row("Paris", 1, note="equal"), row("x", 0))
    results = await checked(one)
    names = [result.name for result in results]
    assert names == ["line 1: equal", "line 2", "openai", "azure"]
    assert {result.status for result in results} == {"passed"}


async def test_failing_comparison_shows_both_texts(tmp_path: Path) -> None:
    one = subject(tmp_path / "g", EXACT, row("paris", 1), {**row("x", 1), "item": {}})
    text = shown(await checked(one))
    assert text.startswith(
        "line 1\nexpected  reward 1.0, no failure\ngot       reward 0.0, no failure\n"
    )
    assert "compared by eq\n  input: 'paris'\n  reference: 'Paris'\n" in text
    assert "got       reward 0.0 and failure invalid_variable\n" in text
    assert "reference: not rendered: " in text


async def test_failing_parts_show_prompt_reply_and_output(tmp_path: Path) -> None:
    document = multi("a / 10 * b", a=JUDGE, b=CODE)
    wrong = {**ASKED, "reward": 0.8, "sub_rewards": {"a": 8, "b": 0.5}}
    one = subject(tmp_path / "g", document, {**wrong, "judge": {"a": {"result": 4}}})
    text = shown(await checked(one))
    for line in (
        "part 'a': expected 8.0, got 4.0",
        "part 'b': expected 0.5, got 1.0",
        "formula   a / 10 * b",
        "sample: So.",
        "part 'a' (score_model) gave 4.0",
        "  asked gpt-4o-2024-08-06",
        "  system: Be strict.",
        "  user:\n    Question Why?\n    Answer So.",
        "  recorded reply: {'result': 4}",
        "part 'b' (python) gave 1.0",
    ):
        assert line in text


async def test_captured_output_is_shown(tmp_path: Path) -> None:
    from graders.ports import SandboxResult

    result = SandboxResult(
        outcome="exception", details="line 3: no", stdout="one\ntwo\n", stderr="careful"
    )
    ports = Ports(sandbox=FakeSandbox(lambda _run: result))
    one = subject(tmp_path / "g", CODE, row("x", 1))
    text = shown(await checked(one, ports=ports))
    assert "failure   python_runtime: line 3: no" in text
    assert "  stdout:\n    one\n    two\n  stderr: careful" in text


async def test_other_questions_are_shown_too(tmp_path: Path) -> None:
    rows: list[tuple[dict[str, Any], dict[str, Any]]] = [
        (ENDPOINT, {"endpoint": {"": {"score": 1}}}),
        (COSINE, {"embedding": {"": [[1, 0], [1, 0]]}}),
        (LABEL, {"judge": {"": {"result": "good"}}}),
    ]
    texts = [
        shown(await checked(subject(tmp_path / str(number), grader, row("x", 0.5, **recorded))))
        for number, (grader, recorded) in enumerate(rows)
    ]
    assert "asked https://example.com/score\n  recorded answer: {'score': 1}" in texts[0]
    assert "embedded: x\n  embedded: Paris" in texts[1]
    assert "user: x" in texts[2]


async def test_unavailable_sandbox_fails_the_example(tmp_path: Path) -> None:
    ports = Ports(sandbox=FakeSandbox(lambda _run: SandboxUnavailableError("no image is built")))
    text = shown(await checked(subject(tmp_path / "g", CODE, row("x", 1)), ports=ports))
    assert "failure   sandbox_unavailable: no image is built" in text


async def test_no_or_unreadable_examples_fail(tmp_path: Path) -> None:
    assert "no examples, so nothing says what it gives" in shown(
        await checked(subject(tmp_path / "g", EXACT))
    )
    assert "unknown field" in shown(await checked(subject(tmp_path / "g", EXACT, row("x", 0, a=1))))


async def test_contradicting_recordings_fail_their_example(tmp_path: Path) -> None:
    judge = {"a": {"result": 1}, "b": {"result": 2}}
    document = multi("a + b", a=JUDGE, b=JUDGE)
    one = subject(tmp_path / "g", document, {**ASKED, "reward": 3, "judge": judge})
    assert "their recorded replies differ" in shown(await checked(one))


async def test_lint_errors_fail_and_warnings_are_noted(tmp_path: Path) -> None:
    warned = {**EXACT, "extra": 1}
    results = await checked(subject(tmp_path / "g", warned, row("Paris", 1)))
    assert "warning at /extra" in shown(results, "noted")
    cosine = subject(tmp_path / "h", COSINE, row("x", 1, embedding={"": [[1.0, 0.0], [1.0, 0.0]]}))
    assert "only Evals takes" in shown(await checked(cosine), "noted")


class TestLive:
    async def run(self, folder: Path, live: JudgeReply, *examples: Any) -> list[Result]:
        ports = Ports(judge=FakeJudge(lambda _call: live))
        one = subject(folder / "g", multi("a", a=JUDGE, b=EXACT), *examples)
        return await checked(one, ports=ports, live=True, tolerance=0.25)

    async def test_judged_rewards_may_be_off_by_a_share_of_their_span(self, tmp_path: Path) -> None:
        item = {"question": "?", "answer": "x"}
        rows = [
            {
                "item": item,
                "model_sample": f"{reward}",
                "reward": reward,
                "judge": SOME,
            }
            for reward in (2, 4, 6, 8, 10)
        ]
        results = await self.run(tmp_path, verdict(7), *rows)
        assert statuses(results) == ["failed", "failed", "passed", "passed", "failed"]

    @pytest.mark.parametrize(
        "recorded", [{"refusal": "No."}, {"content": "8"}, {"result": 1, "finish_reason": "length"}]
    )
    async def test_replies_no_judge_can_be_made_to_give_are_skipped(
        self, tmp_path: Path, recorded: dict[str, Any]
    ) -> None:
        results = await self.run(
            tmp_path, verdict(7), {**ASKED, "reward": 0, "judge": {"a": recorded}}
        )
        assert statuses(results) == ["skipped"]
        assert "cannot be made to give" in shown(results, "skipped")

    async def test_endpoints_are_left_alone(self, tmp_path: Path) -> None:
        one = subject(tmp_path / "g", ENDPOINT, row("x", 1, endpoint={"": {"score": 1}}))
        assert statuses(await checked(one, live=True)) == ["skipped"]

    async def test_failure_must_be_the_same(self, tmp_path: Path) -> None:
        live = reply(None, refusal="No.")
        results = await self.run(tmp_path, live, {**ASKED, "reward": 0, "judge": SOME})
        assert "model_refusal" in shown(results)


async def test_judge_is_asked_what_the_grader_asks(tmp_path: Path) -> None:
    calls: list[JudgeCall] = []

    def answer(call: JudgeCall) -> JudgeReply:
        calls.append(call)
        return verdict(5)

    one = subject(tmp_path / "g", JUDGE, {**ASKED, "reward": 5, "judge": {"": {"result": 5}}})
    await checked(one, ports=Ports(judge=FakeJudge(answer)), live=True)
    assert [call.messages[1]["content"] for call in calls] == ["Question Why?\nAnswer So."]


def test_missing_sub_reward_counts_as_zero() -> None:
    from graders.grade import Grade

    example = Example(item={}, model_sample="", reward=0.0, sub_rewards={"a": 0.0, "b": 1.0})
    assert differences(example, Grade(reward=0.0), 0.0) == ("part 'b': expected 1.0, got 0.0",)


def test_long_texts_are_cut_in_the_middle() -> None:
    assert shortened("x" * 3000) == f"{'x' * 1000} … 1000 characters … {'x' * 1000}"
    assert indented("a", "") == ["a: "]


class TestSubjects:
    def test_names_select_versions_and_drafts(self, tmp_path: Path) -> None:
        write(tmp_path / "one", EXACT)
        draft(tmp_path / "one", {**EXACT, "operation": "ne"})
        draft(tmp_path / "two", EXACT)
        draft(tmp_path / "three", {})
        draft(write(tmp_path / "four", EXACT), EXACT)

        def titles(*names: str) -> list[str]:
            return [one.title for one in find_subjects([tmp_path], names, OPTIONS)]

        assert titles() == ["four@1", "one@1", "one (draft)", "three (draft)", "two (draft)"]
        assert titles("two", "one@1") == ["two (draft)", "one@1"]
        with pytest.raises(UnknownGraderError, match="known graders: four, one, three, two"):
            titles("five")
