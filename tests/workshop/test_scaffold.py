"""``gradekeeper new``: what it writes passes at once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from service.workshop.scaffold import KINDS
from tests.workshop.conftest import Run


def test_every_type_passes_its_check_and_its_mutants_at_once(
    run: Run, definitions: Path, sandbox: None
) -> None:
    for kind in KINDS:
        code, out, err = run("new", f"my-{kind}", "--type", kind, "--definitions", definitions)
        assert code == 0
        assert out.splitlines()[0] == f"{definitions}/my-{kind}/README.md"
        assert f"gradekeeper check my-{kind}" in err
    code, out, _ = run("check", "--definitions", definitions, "--mutants", "--json")
    report = json.loads(out)
    assert [each for each in report["results"] if each["status"] == "failed"] == []
    assert code == 0
    kinds = {each["grader"]: each["kind"] for each in report["results"]}
    assert set(kinds) == {f"my-{kind} (draft)" for kind in KINDS}
    for kind in KINDS:
        assert run("release", definitions / f"my-{kind}").code == 0
    assert run("list").out.count("my-") == len(KINDS)


def test_name_of_the_grader_is_filled_in(run: Run, definitions: Path) -> None:
    run("new", "a.b-c", "--type", "string_check", "--definitions", definitions)
    folder = definitions / "a.b-c"
    assert (folder / "README.md").read_text().startswith("# a.b-c\n")
    assert json.loads((folder / "src" / "grader.json").read_text())["name"] == "a_b_c"


def test_directory_is_the_one_that_the_settings_name(
    run: Run, definitions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = run("new", "a", "--type", "string_check")
    assert code == 0
    assert (definitions / "a" / "src" / "grader.json").is_file()
    assert f"gradekeeper release {definitions / 'a'}\n" in err
    for several in ("", f"{definitions}:{tmp_path / 'more'}"):
        monkeypatch.setenv("GRADEKEEPER_DEFINITIONS", several)
        (tmp_path / "here").mkdir(exist_ok=True)
        monkeypatch.chdir(tmp_path / "here")
        name = "c" if several else "b"
        assert run("new", name, "--type", "string_check").code == 0
        assert (tmp_path / "here" / name).is_dir()


@pytest.mark.parametrize(
    ("name", "problem"), [("Capital", "a name is lower-case letters"), ("there", "there exists")]
)
def test_unusable_name_is_refused(run: Run, definitions: Path, name: str, problem: str) -> None:
    (definitions / "there").mkdir()
    code, out, err = run("new", name, "--type", "multi", "--definitions", definitions)
    assert (code, out) == (2, "")
    assert problem in err


def test_unwritable_directory_is_told(run: Run, definitions: Path) -> None:
    (definitions / "file").write_text("")
    code, _, err = run("new", "a", "--type", "multi", "--definitions", definitions / "file")
    assert (code, err) == (2, f"gradekeeper: {definitions}/file/a: Not a directory\n")
