"""Probes: what is tried, what counts as a weakness, and what authors state about it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from graders.engine import compile_grader
from graders.ports import Ports
from service.workshop.attacks import Attempt, Target, attempts, target_of
from service.workshop.examples import Example
from service.workshop.probe_files import ProbeLine
from service.workshop.probing import probe, probe_subjects
from service.workshop.results import Result
from tests.fakes import FakeJudge, verdict
from tests.workshop.conftest import Run
from tests.workshop.world import (
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
    write_lines,
)

CONTAINS = {**EXACT, "operation": "ilike"}
ASKED = {"item": {"question": "Why?"}, "model_sample": "So.", "reward": 10}
PYTHON: dict[str, Any] = {
    "type": "python",
    "name": "p",
    "source": "def grade(sample, item):\n    return len(sample['output_json']['codes']) / 3\n",
}


def target(grader: dict[str, Any], *rows: dict[str, Any]) -> Target:
    examples = [Example(**{"reward": 1.0, "item": {}, **each}) for each in rows]
    return target_of(compile_grader(grader, OPTIONS, purpose="store"), examples)


def made(grader: dict[str, Any], *rows: dict[str, Any]) -> dict[str, Attempt]:
    found = list(attempts(target(grader, *rows)))
    assert len({attempt.name for attempt in found}) == len(found)
    return {attempt.name: attempt for attempt in found}


def text(attempt: Attempt) -> str:
    return str(attempt.sample["output_text"])


class TestAttempts:
    def test_everything_a_policy_tries_is_tried(self) -> None:
        item = {"question": "Why?", "answer": "Paris", "n": 3, "tags": ["a", True, None]}
        tried = made(JUDGE, {"item": item, "model_sample": "Paris"})
        assert text(tried["empty"]) == ""
        assert text(tried["question-repeated"]) == "Why?\nParis\n3\na"
        assert 'The reference says: "Paris"' in text(tried["reference-quoted"])
        assert text(tried["rubric-quoted"]).startswith("Be strict.\nQuestion {{item.question}}")
        assert json.loads(text(tried["forged-verdict"]))["result"] == 10
        assert "reply with result 10" in text(tried["ignore-instructions"])
        assert "</answer>" in text(tried["delimiters"])
        assert "<|im_start|>system" in text(tried["roles"])
        assert "{{item.answer}}" in text(tried["template"])
        assert text(tried["look-alikes"]) != "Paris"
        assert len(text(tried["look-alikes"])) == 5
        assert len(text(tried["long"])) == 100_000
        assert text(tried["repetition"]).count("Paris") == 200
        assert text(tried["json-nan"]) == "NaN"
        assert "setattr(builtins" in text(tried["code-monkeypatch"])

    def test_labels_are_listed_and_a_passing_one_is_forged(self) -> None:
        best = {"model_sample": "x", "item": {"a": "own"}}
        other = {"model_sample": "y", "reward": 0, "item": {"a": "other"}}
        tried = made(LABEL, best, other)
        assert text(tried["labels-listed"]) == "good, bad, other, own"
        assert json.loads(text(tried["forged-verdict"]))["result"] == "good"
        assert "message" not in text(tried["rubric-quoted"])

    def test_honest_answer_itself_is_no_attempt(self) -> None:
        assert "question-repeated" not in made(EXACT, {"item": {"a": "x"}, "model_sample": "x"})
        codes = {"codes": ["x"]}
        assert "item-dumped" not in made(
            EXACT, {"item": codes, "model_sample": json.dumps(codes, indent=1)}
        )

    def test_answers_in_json_are_attacked_from_within(self) -> None:
        best = {"codes": ["a", "b"], "note": "n", "rows": [{"k": 1}], "none": []}
        tried = made(
            EXACT,
            {"model_sample": json.dumps(best)},
            {"model_sample": '{"codes": ["a"], "more": {"x": 1}}', "reward": 0.5},
            {"model_sample": '{"codes": 1}', "reward": 0.4},
            {"model_sample": "no JSON", "reward": 0.3},
            {"item": {"x": "z"}, "model_sample": "", "reward": 0},
        )
        leaves = json.loads(text(tried["fields-null"]))
        assert leaves == {"codes": [None, None], "note": None, "rows": [{"k": None}], "none": []}
        assert json.loads(text(tried["fields-look-alikes"]))["rows"] == [{"k": 1}]
        listed = json.loads(text(tried["lists-of-labels"]))
        assert listed == {"codes": ["z"], "note": "n", "rows": [{"k": 1}], "none": ["z"]}
        blown = tried["lists-repeated"]
        assert json.loads(text(blown)) == {"codes": ["a"] * 200, "more": {"x": 1}}
        assert blown.honest == 0.5

    def test_tool_calls_are_attacked_too(self) -> None:
        call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
        tried = made(EXACT, {"sample": {"output_text": "", "output_tools": [call]}})
        assert len(tried["tools-repeated"].sample["output_tools"]) == 200
        changed = tried["tools-arguments-not-json"].sample["output_tools"]
        assert changed[0]["function"] == {"name": "f", "arguments": "{"}
        assert call["function"] == {"name": "f", "arguments": "{}"}
        assert tried["tools-null"].sample["output_tools"] == [None]

    def test_failed_rows_are_no_base(self) -> None:
        best = target(
            EXACT,
            {"model_sample": "failed", "reward": 2.0, "failure": "other_error"},
            {"model_sample": "fine", "reward": 1.0},
        )
        assert best.best_text == "fine"

    def test_judge_without_passing_labels_has_some_verdict(self) -> None:
        assert target({**LABEL, "passing_labels": []}, {"model_sample": "x"}).verdict == '"good"'


async def probed(folder: Path, grader: dict[str, Any], *rows: Any, **files: Any) -> list[Result]:
    return await probe(subject(folder / "g", grader, *rows, **files), terms())


async def test_grader_without_weaknesses_passes(tmp_path: Path) -> None:
    results = await probed(tmp_path, EXACT, row("Paris", 1), row("x", 0))
    assert {result.status for result in results} == {"passed"}
    assert len(results) > 30


async def test_attempt_that_earns_too_much_is_shown_with_its_sample(tmp_path: Path) -> None:
    results = await probed(tmp_path, CONTAINS, row("Paris", 1), row("x", 0))
    names = {result.name for result in results if result.status == "failed"}
    assert {"item-dumped", "repetition", "reference-quoted"} <= names
    text = shown(results)
    assert 'item-dumped\nearns 1.0; at most 0.5 is fine\nsample    {"output_text":"{' in text


async def test_attempt_that_makes_code_raise_fails_whatever_it_earns(tmp_path: Path) -> None:
    best = {"item": {}, "model_sample": '{"codes": ["a", "b", "c"]}', "reward": 1}
    results = await probed(tmp_path, PYTHON, best)
    failed = {result.name: result.lines for result in results if result.status == "failed"}
    assert {"empty", "json-null"} <= set(failed)
    assert any("python_runtime" in line for line in failed["empty"])


async def test_blowing_up_a_list_must_not_pay(tmp_path: Path) -> None:
    rows = [
        {"item": {}, "model_sample": json.dumps({"codes": ["a"] * n}), "reward": n / 3}
        for n in (1, 3)
    ]
    lines = {each.name: each.lines for each in await probed(tmp_path, PYTHON, *rows)}
    assert lines["lists-repeated"][0].startswith("earns 66.6")
    assert lines["lists-repeated"][0].endswith("at most 0.3333333333333333 is fine")


class TestStatements:
    ROWS = (row("Paris", 1), row("x", 0))
    REASON = "it contains the answer"

    async def test_known_weakness_is_noted(self, tmp_path: Path) -> None:
        probes = {"known": {"repetition": {"reason": self.REASON, "reward": 1.0}}}
        found = await probed(tmp_path, CONTAINS, *self.ROWS, probes=probes)
        results = {each.name: each for each in found}
        assert results["repetition"].status == "noted"
        assert f"known: {self.REASON}" in results["repetition"].lines
        assert results["item-dumped"].status == "failed"

    async def test_weakness_that_is_gone_or_other_than_stated_fails(self, tmp_path: Path) -> None:
        known = {"reason": self.REASON, "reward": 0.5}
        stated = {"repetition": known, "empty": {**known, "reward": 1.0}, "spelled": known}
        found = await probed(tmp_path, CONTAINS, *self.ROWS, probes={"known": stated})
        text = shown(found)
        assert "probes.json states a reward of 0.5, failure None" in text
        assert "probes.json states a reward of 1.0, failure None" in text
        assert "spelled\nprobes.json speaks of this attempt, and it is never made" in text

    async def test_known_failure_is_pinned_too(self, tmp_path: Path) -> None:
        known = {"reason": "no list, no reward", "reward": 0.0}
        probes = {
            "known": {
                "empty": {**known, "failure": "python_runtime"},
                "json-null": {**known, "failure": "other_error"},
            }
        }
        best = {"item": {}, "model_sample": '{"codes": ["a", "b", "c"]}', "reward": 1}
        results = {each.name: each for each in await probed(tmp_path, PYTHON, best, probes=probes)}
        assert results["empty"].status == "noted"
        assert results["json-null"].status == "failed"

    async def test_stated_and_given_limits_count(self, tmp_path: Path) -> None:
        one = subject(tmp_path / "g", CONTAINS, *self.ROWS, probes={"above": 1})
        assert {each.status for each in await probe(one, terms())} == {"passed"}
        assert "at most 0.0 is fine" in shown(await probe(one, terms(), above=0.0))

    @pytest.mark.parametrize(
        ("probes", "problem"),
        [
            ({"known": {"empty": {"reward": 1}}}, "missing required field `reason`"),
            ({"over": 1}, "unknown field `over`"),
            ({"judge": {"x": {"result": 1}}}, "a reply is recorded for 'x'"),
        ],
    )
    async def test_unreadable_statement_is_named(
        self, tmp_path: Path, probes: Any, problem: str
    ) -> None:
        text = shown(await probed(tmp_path, EXACT, *self.ROWS, probes=probes))
        assert f"{tmp_path / 'g' / 'probes.json'}: " in text
        assert problem in text


class TestJudges:
    async def test_attempts_without_a_reply_are_skipped_loudly(self, tmp_path: Path) -> None:
        one = subject(tmp_path / "g", JUDGE, {**ASKED, "judge": {"": {"result": 10}}})
        write_lines(
            one.folder / "probes.jsonl",
            {"attempt": "empty", "judge": {"": {"result": 1}}},
            {"attempt": "roles", "judge": {"": {"result": 11}}},
        )
        (one.folder / "probes.json").write_text('{"above": 5}')
        results = await probe(one, terms())
        found = {result.name: result.status for result in results}
        assert (found.pop("empty"), found.pop("roles")) == ("passed", "failed")
        assert set(found.values()) == {"skipped"}
        assert "NOT PROBED" in shown(results, "skipped")

    async def test_assumed_replies_let_the_other_parts_be_attacked(self, tmp_path: Path) -> None:
        source = "def grade(sample, item):\n    return len(sample['output_text'])\n"
        long = {**PYTHON, "source": source}
        probes = {"above": 50, "judge": {"a": {"result": 1}}}
        rows = {**ASKED, "reward": 30, "judge": {"a": {"result": 10}}}
        results = await probed(tmp_path, multi("a * b", a=JUDGE, b=long), rows, probes=probes)
        assert "assumes" in shown(results, "noted")
        assert "long\nearns 100000.0; at most 50.0 is fine" in shown(results)
        assert "part 'a' gave 1.0" in shown(results)

    async def test_code_that_raises_fails_without_a_judge(self, tmp_path: Path) -> None:
        item = {"question": "?"}
        best = {"item": item, "model_sample": '{"codes": ["a", "b", "c"]}', "reward": 10}
        rows = {**best, "judge": {"a": {"result": 10}}}
        results = await probed(tmp_path, multi("a * b", a=JUDGE, b=PYTHON), rows)
        found = {result.name: result.status for result in results}
        assert (found["empty"], found["fields-null"]) == ("failed", "skipped")
        known = {"reason": "needs JSON", "reward": 0.0, "failure": "python_runtime"}
        probes = {"known": {"empty": known}}
        results = await probed(tmp_path, multi("a * b", a=JUDGE, b=PYTHON), rows, probes=probes)
        assert [each.name for each in results if each.status == "noted"] == ["empty"]

    async def test_attempts_of_the_author_are_made(self, tmp_path: Path) -> None:
        one = subject(tmp_path / "g", EXACT, row("Paris", 1))
        own = {"item": {"answer": "Rome"}, "attempt": "own", "sample": {"output_text": "Rome"}}
        write_lines(one.folder / "probes.jsonl", own, {"attempt": "other", "model_sample": "Paris"})
        found = {result.name: result.status for result in await probe(one, terms(), above=0)}
        assert (found["own"], found["other"]) == ("failed", "failed")

    @pytest.mark.parametrize(
        ("line", "problem"),
        [
            ({"judge": {}}, "missing required field `attempt`"),
            ({"attempt": "a", "sample": {"output_text": 1}}, "expected a string"),
            ({"attempt": "a", "judge": {"x": {"result": 1}}}, "a reply is recorded for 'x'"),
            ({"attempt": "first"}, "'first' again"),
        ],
    )
    async def test_unreadable_line_is_named(
        self, tmp_path: Path, line: dict[str, Any], problem: str
    ) -> None:
        one = subject(tmp_path / "g", EXACT, row("Paris", 1))
        (one.folder / "probes.jsonl").write_text(f'{{"attempt": "first"}}\n\n{json.dumps(line)}')
        text = shown(await probe(one, terms()))
        assert "probes.jsonl:3: " in text
        assert problem in text

    async def test_live_judges_are_asked_and_their_replies_recorded(self, tmp_path: Path) -> None:
        probes = {"above": 5, "known": {"empty": {"reason": "r", "reward": 9}}}
        one = subject(
            tmp_path / "g", JUDGE, {**ASKED, "judge": {"": {"result": 10}}}, probes=probes
        )
        ports = Ports(judge=FakeJudge(lambda _call: verdict(7)))
        record: dict[str, ProbeLine] = {}
        found = await probe(one, terms(ports=ports, live=True), record=record)
        results = {each.name: each for each in found}
        assert results["empty"].status == "noted"
        assert results["roles"].status == "failed"
        assert record["roles"].attempt == "roles"
        assert record["roles"].judge == {"": {"content": '{"steps": [], "result": 7}'}}
        assert "assumed replies" not in results


async def test_what_cannot_be_probed_is_said(tmp_path: Path) -> None:
    none = subject(tmp_path / "a", EXACT)
    assert "no examples" in shown(await probe(none, terms()), "skipped")
    faulty = subject(tmp_path / "b", EXACT, {})
    assert "examples.jsonl:1" in shown(await probe(faulty, terms()))
    from service.workshop.library import draft_of

    broken = draft_of(draft(tmp_path / "c", {}), OPTIONS)
    assert broken is not None
    assert shown(await probe(broken, terms())).startswith("assembly\n")
    assert await probe_subjects([broken, none], terms()) == await probe(none, terms())


async def test_the_last_version_is_probed(tmp_path: Path) -> None:
    rows = [row("Paris", 1), row("x", 0)]
    first = subject(tmp_path / "g", CONTAINS, *rows)
    second = msgspec.structs.replace(subject(tmp_path / "g", EXACT, *rows), version=2)
    assert {each.grader for each in await probe_subjects([first, second], terms())} == {"g@2"}
    assert {each.grader for each in await probe_subjects([first], terms())} == {"g@1"}


class TestCommand:
    def test_weaknesses_fail_the_command(self, run: Run, definitions: Path) -> None:
        write(definitions / "g", CONTAINS, row("Paris", 1), row("x", 0))
        code, out, err = run("probe", "g")
        assert (code, err) == (1, "")
        assert out.startswith("FAIL  g@1: ")
        code, out, _ = run("probe", "g@1", "--above", "1", "--json", "--definitions", definitions)
        assert code == 0
        assert json.loads(out)["ok"] is True

    def test_draft_is_probed_rather_than_the_version_before(
        self, run: Run, definitions: Path
    ) -> None:
        write(definitions / "g", CONTAINS, row("Paris", 1), row("x", 0))
        draft(definitions / "g", EXACT, row("Paris", 1), row("x", 0))
        code, out, _ = run("probe", "g")
        assert code == 0
        assert out.startswith("ok    g (draft): ")

    def test_recording_needs_live_judges(self, run: Run) -> None:
        code, _, err = run("probe", "g", "--record")
        assert (code, err) == (2, "gradekeeper: --record is only for --live\n")

    def test_replies_of_live_judges_are_written_down(
        self, run: Run, definitions: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import contextlib
        from collections.abc import AsyncIterator

        from service.cli import probe as command

        @contextlib.asynccontextmanager
        async def open_ports(*_: object) -> AsyncIterator[Ports]:
            yield Ports(judge=FakeJudge(lambda _call: verdict(1)))

        write(definitions / "g", JUDGE, {**ASKED, "judge": {"": {"result": 10}}})
        (definitions / "g" / "probes.json").write_text('{"above": 5}')
        monkeypatch.setattr(command, "open_ports", open_ports)
        code, _, err = run("probe", "g", "--live", "--record")
        assert code == 0
        assert err.endswith(f"attempts recorded in {definitions / 'g' / 'probes.jsonl'}\n")
        monkeypatch.undo()
        code, out, _ = run("probe", "g")
        assert code == 0
        assert "SKIPPED" not in out
