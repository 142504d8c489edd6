"""``gradekeeper check``: as people, watchers and build servers use it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from service.cli import check
from tests.workshop.conftest import Run
from tests.workshop.world import CODE, EXACT, JUDGE, draft, row, write, write_lines

ROWS = (row("Paris", 1), row("paris", 0))


def test_everything_passes_and_is_counted(run: Run, definitions: Path) -> None:
    write(definitions / "one", EXACT, *ROWS)
    draft(definitions / "two", EXACT, *ROWS)
    code, out, err = run("check")
    assert (code, err) == (0, "")
    assert out.startswith("ok    one@1: 2 example, 2 lint, ")
    assert "ok    two (draft): 2 example, 2 lint, " in out
    code, out, _ = run("check", "two", "--no-probes", "--json")
    report = json.loads(out)
    assert report["ok"] is True
    assert [each["kind"] for each in report["results"]] == ["example", "example", "lint", "lint"]


def test_failures_fail_and_are_written_for_build_servers(run: Run, definitions: Path) -> None:
    write(definitions / "one", EXACT, row("Paris", 0.5))
    draft(definitions / "two", {})
    file = definitions / "junit.xml"
    code, out, _ = run("check", "--junit", file)
    assert code == 1
    assert "FAIL  two (draft): 1 files (1 failed)" in out
    assert "expected  reward 0.5, no failure" in out
    failures = ET.fromstring(file.read_bytes()).iter("failure")  # noqa: S314 - our own
    assert len(list(failures)) == 2


def test_python_runs_in_the_sandbox(run: Run, definitions: Path, sandbox: None) -> None:
    write(definitions / "code", CODE, row("abcd", 1), row("abcde", 0.25))
    code, out, _ = run("check", "--no-probes")
    assert code == 1
    assert "python gave 0.5\n          stdout: seen abcde" in out


def test_judges_need_no_sandbox(run: Run, definitions: Path) -> None:
    example = {"item": {"question": "?"}, "model_sample": "!", "reward": 4}
    write(definitions / "judge", JUDGE, {**example, "judge": {"": {"result": 4}}})
    assert run("check").code == 0


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["three"], "no grader is named 'three'; known graders: one"),
        (["one@2"], "has no version '2'; known: 1, latest"),
        (["--definitions", "/nowhere"], "/nowhere: no such directory."),
        (["--key-env", "X"], "--key-env is only for --url"),
        (["--url", "here"], "--url here: expected http"),
        (["--url", "http://x", "--watch"], "--watch is for checks in this process"),
        (["--url", "http://x", "--key-env", "MISSING_KEY"], "the variable is not set"),
        (["--junit", "/nowhere/junit.xml"], "--junit /nowhere/junit.xml: No such file"),
    ],
)
def test_unusable_arguments_are_told(
    run: Run, definitions: Path, arguments: list[str], problem: str
) -> None:
    write(definitions / "one", EXACT, *ROWS)
    code, _, err = run("check", *arguments)
    assert code == 2
    assert problem in err


def test_settings_no_adapter_can_be_built_from_are_told(run: Run, definitions: Path) -> None:
    write(definitions / "judge", JUDGE, row("x", 1))
    os.environ["GRADEKEEPER_JUDGE_ROUTES_FILE"] = str(definitions / "missing.json")
    code, _, err = run("check")
    assert code == 2
    assert err.startswith("gradekeeper: ")


def test_watching_checks_what_changes_and_survives_what_is_broken(
    run: Run, definitions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(definitions / "one", EXACT, *ROWS)
    write(definitions / "two", EXACT, *ROWS)

    def changes(directories: list[Path]) -> Iterator[set[str]]:
        assert directories == [definitions]
        write_lines(definitions / "two" / "examples.jsonl", row("Paris", 0))
        yield {"two"}
        (definitions / "two" / "1.json").write_text("{")
        yield {"two"}
        raise KeyboardInterrupt

    monkeypatch.setattr(check, "changes", changes)
    code, out, err = run("check", "--watch", "--no-probes")
    assert code == 130
    first, second = out.split("2 graders: ")
    assert "one@1" in first
    assert "one@1" not in second
    assert "FAIL  two@1" in second
    assert "two/1.json: not JSON" in err
    assert err.count("watching for changes") == 3


def test_watching_some_graders_leaves_the_others_alone(
    run: Run, definitions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(definitions / "one", EXACT, *ROWS)
    write(definitions / "two", EXACT, *ROWS)

    def changes(_directories: list[Path]) -> Iterator[set[str]]:
        yield {"one", "two"}
        raise KeyboardInterrupt

    monkeypatch.setattr(check, "changes", changes)
    _, out, _ = run("check", "two@1", "--watch", "--no-probes")
    assert out.count("ok    two@1") == 2
    assert "one@1" not in out
