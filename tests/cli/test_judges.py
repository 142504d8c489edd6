"""Judges from the command line: recordings, caches, ensembles, estimates."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service.cli import rounds
from tests.cli.conftest import Run
from tests.cli.world import read_lines, rewards, serving, write_json, write_rows
from tests.fakes_upstream import Upstream, completion, error
from tests.judge.served import Background, reset, routes_file, verdict

MEANING = {
    "type": "text_similarity",
    "name": "meaning",
    "evaluation_metric": "cosine",
    "input": "{{sample.output_text}}",
    "reference": "{{item.answer}}",
}


@pytest.fixture(scope="module")
def background() -> Iterator[Upstream]:
    with Background() as upstream:
        yield upstream


@pytest.fixture
def upstream(background: Upstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Upstream:
    reset(background)
    routes = routes_file(tmp_path, background.url)
    os.environ["GRADEKEEPER_JUDGE_ROUTES_FILE"] = str(routes)
    monkeypatch.setattr(rounds, "PAUSES_S", (0.0, 0.0, 0.0))
    return background


@pytest.fixture
def data(tmp_path: Path) -> Path:
    texts = ("[[judge:0.25]] a", "[[judge:0.5]] b", "[[judge:0.25]] a")
    return write_rows(tmp_path / "rows.jsonl", [row(text) for text in texts])


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "scores.jsonl"


def row(text: str, **item: Any) -> dict[str, Any]:
    return {"item": {"answer": "x", **item}, "model_sample": text}


class TestRecording:
    def test_replays_bit_for_bit_with_nobody_to_ask(
        self, run: Run, upstream: Upstream, data: Path, out: Path, tmp_path: Path
    ) -> None:
        recording, again = tmp_path / "judgements.jsonl", tmp_path / "again.jsonl"
        done = run("score", "judged", "--data", data, "--out", out, "--record", recording)
        assert (done.code, done.err) == (0, "")
        assert "judges   3 replies, 360 tokens, $0.0007 paid by this run" in done.out
        assert rewards(out) == [0.25, 0.5, 0.25]
        assert upstream.count == 2
        upstream.script = lambda asked: error(500)
        done = run("score", "judged", "--data", data, "--out", again, "--replay", recording)
        assert done.code == 0
        assert "judges   3 replies, 360 tokens, $0.0000 paid by this run" in done.out
        assert again.read_bytes() == out.read_bytes()
        assert upstream.count == 2

    def test_that_lacks_a_row_fails_that_row_until_it_is_asked(
        self, run: Run, upstream: Upstream, data: Path, out: Path, tmp_path: Path
    ) -> None:
        recording = tmp_path / "judgements.jsonl"
        one = write_rows(tmp_path / "one.jsonl", [row("[[judge:0.25]] a")])
        command = ("score", "judged", "--data")
        run(*command, one, "--out", tmp_path / "x.jsonl", "--record", recording)
        done = run(*command, data, "--out", out, "--replay", recording)
        assert done.code == 1
        codes = [line.get("error", {}).get("code") for line in read_lines(out)]
        assert codes == [None, "missing_recording", None]
        assert run(*command, data, "--out", out, "--retry-failed").code == 0
        assert rewards(out) == [0.25, 0.5, 0.25]

    def test_must_be_there_and_be_local(
        self, run: Run, upstream: Upstream, data: Path, out: Path, tmp_path: Path
    ) -> None:
        command = ("score", "judged", "--data", data, "--out", out)
        done = run(*command, "--replay", tmp_path / "none.jsonl")
        assert (done.code, done.out) == (2, "")
        assert f"the recording {tmp_path}/none.jsonl cannot be read: No such file" in done.err
        done = run(*command, "--url", "http://127.0.0.1:9", "--record", tmp_path / "r.jsonl")
        assert done.code == 2
        assert "not of --url" in done.err
        both = ("--record", tmp_path / "r.jsonl", "--replay", tmp_path / "r.jsonl")
        assert run(*command, *both).code == 2


def test_a_spent_budget_ends_the_run_and_says_what_is_left(
    run: Run, upstream: Upstream, data: Path, out: Path, tmp_path: Path
) -> None:
    budgets = {"budgets": [{"per": "total", "dollars_per_day": 0.00001}]}
    file = write_json(tmp_path / "budgets.json", budgets)
    os.environ["GRADEKEEPER_JUDGE_BUDGETS_FILE"] = str(file)
    done = run("score", "judged", "--data", data, "--out", out)
    assert (done.code, done.err, upstream.count) == (1, "", 0)
    assert "failed   3  (budget_exceeded 3)\n         3 of them may work" in done.out
    told = "judge budget in total, $0.00001 a day: $0.00001 left, this call may cost $"
    assert told in done.out


class TestEnsembles:
    def test_have_their_draws_in_the_line(
        self, run: Run, upstream: Upstream, data: Path, out: Path
    ) -> None:
        given = iter((0.0, 1.0, 0.5, 0.5))
        upstream.script = lambda asked: completion(verdict(str(next(given))))
        options = ("--draws", 2, "--combine", "mean", "--limit", 1, "--concurrency", 1)
        command = ("score", "judged", "--data", data, "--out", out, *options)
        assert run(*command).code == 0
        (line,) = read_lines(out)
        assert line["reward"] == 0.5
        assert line["spread"] == pytest.approx(0.7071, abs=1e-4)
        draws = line["draws"]
        assert [(one["model"], one["sample_index"], one["ok"]) for one in draws] == [
            (None, 0, True),
            (None, 1, True),
        ]
        assert sorted(one["reward"] for one in draws) == [0.0, 1.0]
        assert line["signature"].endswith("|ensemble:mean")
        assert "is complete already" in run(*command).err
        refused = run(*command, "--sample-index", 3)
        assert refused.code == 2
        assert "scores of other data or options" in refused.err

    def test_ask_several_models(self, run: Run, upstream: Upstream, data: Path, out: Path) -> None:
        run("score", "judged", "--data", data, "--out", out, "--judge-model", "a", "b")
        assert {asked.body["model"] for asked in upstream.asked} == {"a", "b"}
        assert [one["model"] for one in read_lines(out)[0]["draws"]] == ["a", "b"]

    def test_on_a_server_are_the_same(
        self, run: Run, upstream: Upstream, data: Path, out: Path, tmp_path: Path
    ) -> None:
        there = tmp_path / "there.jsonl"
        options = ("--draws", 2, "--sample-index", 4, "--cache", "refresh", "--limit", 2)
        with serving() as (_, url):
            command = ("score", "judged", "--data", data, *options)
            assert run(*command, "--out", there, "--url", url).code == 0
            # The server looks for shutdown dates, too: that is a GET.
            asked = sum(one.method == "POST" for one in upstream.asked)
            refused = run("score", "exact", *command[2:], "--out", out, "--url", url)
        assert run(*command, "--out", out).code == 0
        assert there.read_bytes() == out.read_bytes()
        assert sum(one.method == "POST" for one in upstream.asked) == 2 * asked == 8
        assert refused.code == 2
        assert "an ensemble is for graders that ask a judge model" in refused.err

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (("--combine", "mean"), "--combine is only for --draws or --judge-model"),
            (("--draws", "0"), "--draws, --judge-model: Expected `int` >= 1 - at `$.n`"),
            (("--judge-model", "a", "a"), "models: each judge model once"),
            (("--sample-index", "-1"), "argument --sample-index"),
        ],
    )
    def test_that_cannot_be_meant_are_refused(
        self, options: tuple[str, ...], message: str, run: Run, data: Path, out: Path
    ) -> None:
        done = run("score", "judged", "--data", data, "--out", out, *options)
        assert done.code == 2
        assert message in done.err

    def test_of_graders_without_a_judge_are_refused(self, run: Run, data: Path, out: Path) -> None:
        done = run("score", "parts", "--data", data, "--out", out, "--draws", 2)
        assert done.code == 2
        assert "an ensemble is for graders that ask a judge model; this multi asks none" in done.err
        assert run("estimate", "exact", "--data", data, "--draws", 2).code == 2


class TestCache:
    @pytest.mark.parametrize(("cache", "calls"), [("read-write", 1), ("refresh", 2), ("off", 2)])
    def test_follows_the_option(
        self, cache: str, calls: int, run: Run, upstream: Upstream, out: Path
    ) -> None:
        data = write_rows(out.with_name("same.jsonl"), [row("same"), row("same")])
        options = ("--cache", cache, "--concurrency", 1)
        run("score", "judged", "--data", data, "--out", out, *options)
        assert upstream.count == calls


class TestEstimate:
    def test_is_what_the_run_then_takes(self, run: Run, upstream: Upstream, data: Path) -> None:
        done = run("estimate", "judged", "--data", data, "--json")
        assert (done.code, done.err, upstream.count) == (0, "", 0)
        found = json.loads(done.out)
        (model,) = found["models"]
        assert (model["calls"], model["distinct"]) == (3, 2)
        assert model["completion_tokens"] == 1000
        assert found["dollars"] == model["dollars"]
        assert model["dollars"] == pytest.approx(
            (model["prompt_tokens"] * 2 + 1000 * 8) / 1_000_000
        )
        done = run("estimate", "judged", "--data", data, "--draws", 3, "--judge-model", "a", "b")
        lines = done.out.splitlines()
        assert lines[0] == "rows       3"
        assert [line.split()[:4] for line in lines[3:5]] == [
            ["a", "a", "9", "6"],
            ["b", "b", "9", "6"],
        ]
        assert lines[5].startswith("all ")

    def test_says_what_cannot_be_asked_or_priced(
        self, run: Run, data: Path, tmp_path: Path
    ) -> None:
        rows = [row("a"), {"item": 1}, {"item": {}, "model_sample": "b"}]
        broken = write_rows(tmp_path / "broken.jsonl", rows)
        meaning = write_json(tmp_path / "meaning.json", MEANING)
        done = run("estimate", meaning, "--data", broken)
        assert done.code == 0
        assert done.out.splitlines() == [
            "rows       2",
            "unreadable 1",
            "failing    1",
            "",
            "judge model             asked     calls  distinct  prompt  completion  dollars",
            "text-embedding-3-large  no route  2      0         0       0           ?",
            "",
            "no price is known for text-embedding-3-large",
        ]
        done = run("estimate", "exact", "--data", data)
        assert done.out == "rows       3\nno judge is asked\n"

    def test_needs_routes_that_can_be_read(self, run: Run, data: Path, tmp_path: Path) -> None:
        os.environ["GRADEKEEPER_JUDGE_ROUTES_FILE"] = str(tmp_path / "none.json")
        done = run("estimate", "judged", "--data", data)
        assert (done.code, "routes file cannot be read" in done.err) == (2, True)
