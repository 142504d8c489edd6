"""Examples over HTTP, against a server that runs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.world import serving
from tests.workshop.conftest import Run
from tests.workshop.world import EXACT, JUDGE, draft, multi, rewrite, row, write, write_lines

pytestmark = pytest.mark.integration
BOTH = multi("a + b", a=EXACT, b={**EXACT, "reference": "{{item.other}}"})
ITEM = {"answer": "Paris", "other": "Paris"}


@pytest.fixture
def url(definitions: Path, environment: None) -> Iterator[str]:
    """A server of three graders."""
    missing = {"item": {}, "reward": 0, "failure": "invalid_variable"}
    write(definitions / "one", EXACT, row("Paris", 1), row("paris", 0), {**row("x", 0), **missing})
    both = {"item": ITEM, "model_sample": "Paris", "reward": 2, "sub_rewards": {"a": 1, "b": 1}}
    # Locally the formula's number; the server states 0.0 for what failed.
    half = {"item": {"answer": "Paris"}, "model_sample": "Paris", "reward": 1}
    write(definitions / "both", BOTH, both, {**half, "failure": "invalid_variable"})
    asked = {"item": {"question": "?"}, "model_sample": "!", "reward": 4}
    odd = {**asked, "judge": {"": {"content": "4"}}, "reward": 0, "failure": "model_parse"}
    judged = {**asked, "judge": {"": {"result": 4}}}
    write(definitions / "judge", JUDGE, judged, {**asked, **missing}, odd)
    with serving(GRADEKEEPER_SANDBOX="off", GRADEKEEPER_MAX_BODY_BYTES="100000") as (_process, url):
        yield url


def test_deployment_is_verified_and_its_faults_are_found(
    run: Run, definitions: Path, url: str
) -> None:
    draft(definitions / "two", EXACT, row("Paris", 1))
    code, out, _ = run("check", "--url", url)
    assert code == 0, out
    assert "ok    one@1: 1 files, 3 example\n" in out
    assert "ok    both@1: 1 files, 2 example\n" in out
    assert "ok    judge@1: 1 files, 3 example (2 skipped)\n" in out
    assert "a draft is not on any server" in out
    assert "its judges; recordings cannot be sent along: use --live" in out

    os.environ["OUR_KEY"] = "secret"
    write_lines(definitions / "one" / "examples.jsonl", row("paris", 1))
    rewrite(definitions / "both" / "1.json", calculate_output="a * b")
    write(definitions / "new", EXACT, row("Paris", 1))
    write_lines(definitions / "judge" / "examples.jsonl", row("x", 1, unknown=1))
    code, out, _ = run("check", "--url", url, "--key-env", "OUR_KEY")
    assert code == 1
    assert "expected  reward 1.0, no failure\n        got       reward 0.0" in out
    assert "input: 'paris'" in out
    assert "failed: files digest\n        here sha256:" in out
    assert "HTTP 404: no grader is named 'new'" in out
    assert "judge@1: 1 files (1 failed)" in out


def test_live_examples_are_asked_of_the_servers_judges(
    run: Run, definitions: Path, url: str
) -> None:
    code, out, _ = run("check", "judge", "--url", url, "--live")
    assert code == 1
    assert "judge_unavailable" in out
    assert "a live judge cannot be made to give this reply" in out


def test_rows_that_the_server_refuses_are_shown(run: Run, definitions: Path, url: str) -> None:
    huge = row("x" * 200_000, 0)
    write_lines(definitions / "one" / "examples.jsonl", huge)
    code, out, _ = run("check", "one", "--url", url)
    assert code == 1
    assert "HTTP 413" in out


def test_server_that_is_not_there_has_its_own_exit_code(
    run: Run, definitions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from service.cli import remote

    monkeypatch.setattr(remote, "PAUSES_S", ())
    write(definitions / "one", EXACT, row("Paris", 1))
    code, _, err = run("check", "--url", "http://127.0.0.1:9")
    assert code == 3
    assert "127.0.0.1:9" in err
