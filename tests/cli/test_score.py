"""``gradekeeper score`` in this process: what it writes, refuses and survives."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from graders.errors import BudgetExceededError, JudgeUnavailableError, UpstreamError
from graders.ports import JudgeCall, Ports
from service.cli import rounds, score
from service.cli.failures import CommandError
from service.cli.journal import Journal
from tests.cli.conftest import Run
from tests.cli.world import (
    COMMAND,
    EXACT,
    NEAR,
    PARTS,
    Judge,
    log_of,
    many_rows,
    read_lines,
    rewards,
    row,
    running,
    stop,
    until,
    write_json,
    write_rows,
)

Ask = Callable[[Callable[[JudgeCall], float]], Judge]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Where scores go."""
    return tmp_path / "scores.jsonl"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three rows: right, wrong, right but for its case."""
    rows = [row("a", "a"), row("b", "x"), row("c", "C")]
    return write_rows(tmp_path / "rows.jsonl", rows)


@pytest.fixture
def judging(monkeypatch: pytest.MonkeyPatch) -> Ask:
    """Have judges asked through a function, and retries follow at once."""

    def ask(reply: Callable[[JudgeCall], float]) -> Judge:
        judge = Judge(reply)

        @contextlib.asynccontextmanager
        async def ports(*_: Any) -> AsyncIterator[Ports]:
            yield Ports(judge=judge)

        monkeypatch.setattr(score, "open_ports", ports)
        monkeypatch.setattr(rounds, "PAUSES_S", (0.0, 0.0, 0.0))
        return judge

    return ask


class TestScores:
    def test_are_one_line_a_row_in_order(self, run: Run, data: Path, out: Path) -> None:
        code, summary, err = run("score", "exact@1", "--data", data, "--out", out)
        assert (code, err) == (0, "")
        first, *_ = lines = read_lines(out)
        assert [line["reward"] for line in lines] == [1.0, 0.0, 0.0]
        assert first.pop("run")
        assert first.pop("signature").startswith("exact@1|sha256:")
        assert first == {"row": 0, "reward": 1.0, "ok": True, "passed": True}
        assert summary.startswith("rows     3\nok       3\nfailed   0\npassed   1  (33.3%")
        assert sorted(path.name for path in out.parent.glob("*scores*")) == [out.name]

    @pytest.mark.parametrize(
        ("grader", "expected"), [("exact", [1.0, 0.0, 1.0]), ("exact@prod", [1.0, 0.0, 0.0])]
    )
    def test_follow_the_version(
        self, grader: str, expected: list[float], run: Run, data: Path, out: Path
    ) -> None:
        run("score", grader, "--data", data, "--out", out)
        assert rewards(out) == expected

    def test_of_a_file_need_no_name_in_it(self, run: Run, data: Path, tmp_path: Path) -> None:
        nameless = {key: value for key, value in EXACT.items() if key != "name"}
        file = write_json(tmp_path / "mine.json", nameless)
        scores = tmp_path / "mine.jsonl"
        assert run("score", file, "--data", data, "--out", scores).code == 0
        assert rewards(scores) == [1.0, 0.0, 0.0]
        assert read_lines(scores)[0]["signature"].startswith("sha256:")

    def test_of_a_multi_have_sub_rewards(self, run: Run, data: Path, out: Path) -> None:
        run("score", "parts", "--data", data, "--out", out)
        assert read_lines(out)[0]["sub_rewards"] == {"same": 1.0, "near": 1.0}

    def test_of_a_multi_are_zero_where_a_part_failed(
        self, run: Run, tmp_path: Path, out: Path
    ) -> None:
        graders = {"same": EXACT, "near": {**NEAR, "reference": "{{item.other}}"}}
        parts = {**PARTS, "graders": graders}
        file = write_json(tmp_path / "g.json", parts)
        data = write_rows(tmp_path / "r.jsonl", [row("a", "a")])
        run("score", file, "--data", data, "--out", out)
        (line,) = read_lines(out)
        assert (line["reward"], line["ok"]) == (0.0, False)  # the formula gives 0.5
        assert line["sub_rewards"] == {"same": 1.0, "near": 0.0}

    def test_go_on_past_failing_and_unreadable_rows(
        self, run: Run, tmp_path: Path, out: Path
    ) -> None:
        rows = [row("a", "a"), {"item": {}, "model_sample": "a"}, {"item": 1}, row("b", "b")]
        data = write_rows(tmp_path / "r.jsonl", rows)
        code, summary, _ = run("score", "exact", "--data", data, "--out", out, "--json")
        assert code == 1
        lines = read_lines(out)
        assert [line["ok"] for line in lines] == [True, False, False, True]
        assert [line.get("error", {}).get("code") for line in lines[1:3]] == [
            "invalid_variable",
            "invalid_row",
        ]
        counted = json.loads(summary)
        assert counted["failed"] == {"invalid_variable": 1, "invalid_row": 1}
        assert (counted["rows"], counted["ok"], counted["mean"]) == (4, 2, 1.0)
        assert (counted["pass_rate"], counted["deciles"]) == (1.0, [1.0] * 11)

    def test_come_from_flat_csv_and_parquet_just_the_same(
        self, run: Run, tmp_path: Path, out: Path
    ) -> None:
        import pyarrow as pa
        from pyarrow import parquet

        (tmp_path / "r.csv").write_text("answer,reply\na,a\nb,x\n")
        table = pa.Table.from_pylist([{"answer": "a", "reply": "a"}, {"answer": "b", "reply": "x"}])
        parquet.write_table(table, tmp_path / "r.parquet")
        for name in ("r.csv", "r.parquet"):
            data = ("--data", tmp_path / name, "--sample-field", "reply")
            assert run("score", "exact", *data, "--out", out, "--overwrite").code == 0
            assert rewards(out) == [1.0, 0.0]

    def test_end_at_a_limit(self, run: Run, data: Path, out: Path) -> None:
        run("score", "exact", "--data", data, "--out", out, "--limit", "2")
        assert len(rewards(out)) == 2

    def test_are_tens_of_thousands_a_second(self, run: Run, tmp_path: Path, out: Path) -> None:
        data = write_rows(tmp_path / "r.jsonl", many_rows(40_000))
        started = time.process_time()
        assert run("score", "exact@1", "--data", data, "--out", out).code == 0
        assert time.process_time() - started < 4  # usually a tenth of that
        assert len(read_lines(out)) == 40_000

    def test_show_their_progress_on_a_terminal(
        self, run: Run, data: Path, out: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
        _, _, err = run("score", "exact", "--data", data, "--out", out)
        assert "3.00/3.00" in err


class TestJudged:
    def test_rows_carry_usage_and_signature_of_the_judge(
        self, run: Run, data: Path, out: Path, judging: Ask
    ) -> None:
        judge = judging(lambda _: 0.75)
        code, _, _ = run("score", "judged", "--data", data, "--out", out, "--concurrency", "2")
        assert (code, judge.asked) == (0, 3)
        assert rewards(out) == [0.75] * 3
        line = read_lines(out)[0]
        assert "|judge:gpt-4o-2024-08-06:k" in line["signature"]
        assert set(line["usage"]) == {"gpt-4o-2024-08-06"}
        assert "diagnostics" not in line

    def test_debug_keeps_what_the_judge_reported(
        self, run: Run, data: Path, out: Path, judging: Ask
    ) -> None:
        judging(lambda _: 0.75)
        run("score", "judged", "--data", data, "--out", out, "--debug")
        assert "diagnostics" in read_lines(out)[0]

    def test_a_row_that_fails_for_now_is_tried_again(
        self, run: Run, data: Path, out: Path, judging: Ask
    ) -> None:
        downs = iter([True, True, False, True])

        def reply(_: JudgeCall) -> float:
            if next(downs, False):
                raise JudgeUnavailableError("down", retry_after_s=0.01)
            return 0.5

        judge = judging(reply)
        assert run("score", "judged", "--data", data, "--out", out).code == 0
        assert rewards(out) == [0.5] * 3
        assert judge.asked == 6

    @pytest.mark.parametrize(
        "failure",
        [
            BudgetExceededError("no dollar is left", retry_after_s=0.01),
            JudgeUnavailableError("closed", retry_after_s=121.0),
        ],
        ids=["budget", "long pause"],
    )
    def test_what_only_a_long_wait_could_mend_fails_at_once(
        self, failure: UpstreamError, run: Run, data: Path, out: Path, judging: Ask
    ) -> None:
        def reply(call: JudgeCall) -> float:
            if "Grade x" in str(call.messages):
                raise failure
            return 0.5

        judge = judging(reply)
        code, summary, err = run("score", "judged", "--data", data, "--out", out)
        assert (code, err, judge.asked) == (1, "", 3)
        assert "1 of them may work with --retry-failed" in summary

    def test_a_wait_is_announced_with_its_cause(
        self, run: Run, data: Path, out: Path, judging: Ask, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        downs = iter([True])

        def reply(_: JudgeCall) -> float:
            if next(downs, False):
                raise JudgeUnavailableError("down")
            return 0.5

        judging(reply)
        monkeypatch.setattr(rounds, "PAUSES_S", (1.0,))
        code, _, err = run("score", "judged", "--data", data, "--out", out)
        assert code == 0
        told = "1 rows failed for now, such as: judge_unavailable: down; trying again in 1 s\n"
        assert err == told

    def test_what_keeps_failing_fails_and_can_be_scored_later(
        self, run: Run, data: Path, out: Path, judging: Ask
    ) -> None:
        def reply(call: JudgeCall) -> float:
            if "Grade x" in str(call.messages):
                raise JudgeUnavailableError("down")
            return 0.5

        command = ("score", "judged", "--data", data, "--out", out)
        judge = judging(reply)
        code, summary, _ = run(*command)
        assert code == 1
        assert "failed   1  (judge_unavailable 1)\n         1 of them may work" in summary
        assert judge.asked == 2 + 4
        assert read_lines(out)[1]["error"]["retryable"] is True

        code, _, err = run(*command)
        assert (code, err) == (1, f"{out} is complete already\n")

        judge = judging(lambda _: 1.0)
        code, _, err = run(*command, "--retry-failed")
        assert code == 0
        assert (
            "1 rows failed because something outside could not be asked\ngoing on after 2 rows"
            in err
        )
        assert judge.asked == 1
        assert rewards(out) == [0.5, 1.0, 0.5]

    def test_without_a_sandbox_nothing_is_scored_at_all(
        self, run: Run, data: Path, out: Path
    ) -> None:
        code, _, err = run("score", "coded", "--data", data, "--out", out)
        assert code == 2
        assert err.startswith("gradekeeper: this grader cannot run in this process: running Python")
        assert not out.exists()
        assert not score.partial_of(out).exists()

    def test_a_judge_that_is_not_configured_can_be_asked_later(
        self, run: Run, data: Path, out: Path, judging: Ask
    ) -> None:
        os.environ.pop("OPENAI_API_KEY", None)
        command = ("score", "judged", "--data", data, "--out", out)
        code, summary, _ = run(*command)
        assert code == 1
        assert "failed   3  (judge_unavailable 3)\n         3 of them may work" in summary
        judging(lambda _: 1.0)
        assert run(*command, "--retry-failed").code == 0
        assert rewards(out) == [1.0] * 3

    def test_settings_that_no_judge_can_be_built_from_are_said(
        self, run: Run, data: Path, out: Path
    ) -> None:
        os.environ["GRADEKEEPER_JUDGE_BUDGETS_FILE"] = "/none.json"
        code, _, err = run("score", "judged", "--data", data, "--out", out)
        assert code == 2
        assert err == "gradekeeper: the budgets file cannot be read: No such file or directory\n"

    def test_a_pure_grader_asks_for_none_of_it(self, run: Run, data: Path, out: Path) -> None:
        os.environ["GRADEKEEPER_JUDGE_BUDGETS_FILE"] = "/none.json"
        assert run("score", "exact", "--data", data, "--out", out).code == 0

    def test_an_interruption_waits_for_no_judge(
        self, run: Run, data: Path, out: Path, judging: Ask, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        judge = judging(lambda _: 0.5)
        answer = judge.judge

        async def slow(call: JudgeCall) -> Any:
            if "Grade a" in str(call.messages):
                return await answer(call)
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.sleep(60)
            return None

        monkeypatch.setattr(judge, "judge", slow)
        code, _, err = run("score", "judged", "--data", data, "--out", out)
        assert code == 143
        assert err == (
            f"scores so far are kept in {score.partial_of(out)}; "
            "the same command (without --overwrite) goes on with them\n"
            "gradekeeper: stopped by SIGTERM\n"
        )
        monkeypatch.undo()
        judging(lambda _: 0.25)
        run("score", "judged", "--data", data, "--out", out)
        assert rewards(out) == [0.5, 0.25, 0.25]


class TestAnOutThatIsThere:
    def test_complete_is_summarized_again(self, run: Run, data: Path, out: Path) -> None:
        command = ("score", "exact", "--data", data, "--out", out)
        first = run(*command)
        before = out.stat()
        code, summary, err = run(*command)
        assert (code, summary) == (0, first.out)
        assert err == f"{out} is complete already\n"
        assert out.stat().st_mtime_ns == before.st_mtime_ns

    def test_of_another_grader_or_other_data_is_refused(
        self, run: Run, data: Path, out: Path
    ) -> None:
        run("score", "exact@1", "--data", data, "--out", out)
        code, _, err = run("score", "exact@2", "--data", data, "--out", out)
        assert code == 2
        assert err == (
            f"gradekeeper: {out} holds scores of another grader; --overwrite replaces them\n"
        )
        with data.open("a") as file:
            file.write(json.dumps(row("d", "d")) + "\n")
        code, _, err = run("score", "exact@1", "--data", data, "--out", out)
        assert code == 2
        assert "holds scores of other data or options; --overwrite replaces them" in err
        assert run("score", "exact@2", "--data", data, "--out", out, "--overwrite").code == 0
        assert rewards(out) == [1.0, 0.0, 1.0, 1.0]

    def test_of_another_kind_is_refused(self, run: Run, data: Path, out: Path) -> None:
        out.write_text("precious\n")
        code, _, err = run("score", "exact", "--data", data, "--out", out)
        assert code == 2
        assert "is no file of scores; --overwrite replaces it" in err
        assert out.read_text() == "precious\n"

    def test_but_empty_is_filled(self, run: Run, data: Path, out: Path) -> None:
        out.touch()
        assert run("score", "exact", "--data", data, "--out", out).code == 0

    def test_a_journal_of_another_run_is_refused(self, run: Run, data: Path, out: Path) -> None:
        run("score", "exact", "--data", data, "--out", out)
        partial = score.partial_of(out)
        partial.write_text(f'{{"run":{json.dumps(FOREIGN)}}}\n')
        code, _, err = run("score", "exact", "--data", data, "--out", out)
        assert code == 2
        assert "belongs to another run: the grader and the data differed" in err
        assert "scores so far are kept" not in err


FOREIGN = {
    "signature": "s",
    "data_sha256": "d",
    "data_bytes": 1,
    "sample_field": "model_sample",
    "limit": None,
    "debug": False,
}


@pytest.mark.parametrize("as_json", [(), ("--json",)])
def test_data_without_a_usable_row_ends_with_one_hint(
    as_json: tuple[str, ...], run: Run, tmp_path: Path, out: Path
) -> None:
    data = write_rows(tmp_path / "r.jsonl", [{"answer": "a", "reply": "a"}] * 2)
    code, _, err = run("score", "exact", "--data", data, "--out", out, *as_json)
    assert code == 1
    assert err.count("no row is usable") == 1
    assert "there are answer, reply. --sample-field names" in err
    assert run("estimate", "exact", "--data", data).err == err


def test_one_usable_row_needs_no_hint(run: Run, tmp_path: Path, out: Path) -> None:
    data = write_rows(tmp_path / "r.jsonl", [{"reply": "a"}, row("a", "a")])
    assert run("score", "exact", "--data", data, "--out", out).err == ""
    assert run("estimate", "exact", "--data", data).err == ""


class TestRefusals:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("none", "rows.jsonl", "o"), "no grader is named 'none'; known graders: coded"),
            (("exact@7", "rows.jsonl", "o"), "grader 'exact' has no version '7'"),
            (("./none.json", "rows.jsonl", "o"), "none.json: No such file or directory"),
            (("exact", "none.jsonl", "o"), "none.jsonl: No such file or directory"),
            (("exact", "rows.jsonl", "."), "--out .: not a file in a directory that exists"),
            (("exact", "rows.jsonl", "x/o"), "--out x/o: not a file in a directory that exists"),
            (("exact", "rows.jsonl", "rows.jsonl"), "--out would replace --data"),
            (("exact", "rows.jsonl", "o", "--key-env", "X"), "--key-env is only for --url"),
            (("exact", "rows.jsonl", "o", "--url", "host"), "--url host: expected http://… or"),
            (
                ("./g.json", "rows.jsonl", "o", "--url", "http://h"),
                "a server only scores with graders of its own: give NAME[@VERSION]",
            ),
            (
                ("exact", "rows.jsonl", "o", "--url", "http://h", "--key-env", "NO_SUCH_KEY"),
                "--key-env NO_SUCH_KEY: the variable is not set",
            ),
            (
                ("exact", "rows.jsonl", "o", "--limit", "0"),
                "--limit: expected a whole number from 1, got '0'",
            ),
            (("exact", "empty.jsonl", "o"), "empty.jsonl: no rows"),
        ],
    )
    def test_are_one_clear_line(
        self,
        arguments: tuple[str, ...],
        message: str,
        run: Run,
        data: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.chdir(data.parent)
        Path("empty.jsonl").touch()
        grader, rows, out, *more = arguments
        code, stdout, err = run("score", grader, "--data", rows, "--out", out, *more)
        assert (code, stdout) == (2, "")
        assert message in err
        assert "Traceback" not in err
        assert not Path("o").exists()
        assert not Path("o.partial").exists()

    def test_an_interruption_outside_the_scoring_says_how_to_go_on(
        self, run: Run, data: Path, out: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def interrupted(*_: Any) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(Journal, "finish", interrupted)
        code, _, err = run("score", "exact", "--data", data, "--out", out)
        assert code == 130
        assert err.startswith(f"scores so far are kept in {score.partial_of(out)}; ")
        monkeypatch.undo()
        code, _, err = run("score", "exact", "--data", data, "--out", out)
        assert (code, err) == (0, "going on after 3 rows that have their scores\n")

    def test_data_that_turns_bad_on_the_way_keeps_the_scores_so_far(
        self, run: Run, tmp_path: Path, out: Path
    ) -> None:
        os.environ["GRADEKEEPER_MAX_LINE_BYTES"] = "1024"
        data = tmp_path / "r.csv"
        data.write_text(f"answer,model_sample\n{'a,a' * 2}\na,{'x' * 2000}\n")
        code, _, err = run("score", "exact", "--data", data, "--out", out)
        assert code == 2
        assert "r.csv: line 3: field larger than field limit (1024)" in err


async def test_a_signal_that_comes_too_late_changes_nothing() -> None:
    class Nothing:
        signature = "s"
        paid_usd: float | None = None

        async def score(self, rows: Any, emit: Any) -> None:
            pass

    class Empty:
        done = expected = 0

    empty: Any = Empty()
    await rounds.Rounds(empty, Nothing(), empty, "r").run()
    assert isinstance(rounds.InterruptedRunError(2), CommandError)


@pytest.mark.integration
def test_interruptions_lose_nothing_and_score_nothing_twice(tmp_path: Path) -> None:
    total = 60_000  # about a second's work
    data = write_rows(tmp_path / "many.jsonl", many_rows(total))
    out, untouched = tmp_path / "scores.jsonl", tmp_path / "untouched.jsonl"
    partial = score.partial_of(out)
    command = ("score", "parts", "--data", str(data), "--out")
    subprocess.run([COMMAND, *command, str(untouched)], capture_output=True, check=True)

    def has_grown(size: int) -> Callable[[], bool]:
        return lambda: partial.exists() and partial.stat().st_size > size

    done = 0
    for number, code, said in (
        (signal.SIGKILL, -9, ""),
        (signal.SIGINT, 130, "gradekeeper: stopped by SIGINT\n"),
        (signal.SIGTERM, 143, "gradekeeper: stopped by SIGTERM\n"),
    ):
        size = partial.stat().st_size if done else 0
        with running(*command, str(out)) as process:
            until(has_grown(size + 100_000))
            assert stop(process, number) == code
            log = log_of(process)
        assert log.endswith(said)
        if done:
            assert log.startswith(f"going on after {done} rows that have their scores\n")
        assert not out.exists()
        before, done = done, partial.read_bytes().count(b"\n") - 1
        assert before < done < total
    ran = subprocess.run([COMMAND, *command, str(out)], capture_output=True, text=True, check=True)
    assert ran.stderr == f"going on after {done} rows that have their scores\n"
    assert out.read_bytes() == untouched.read_bytes()
    assert not partial.exists()
