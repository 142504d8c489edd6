"""Releases: the next version, its lock line, and never an edit."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from graders import registry
from service.workshop.library import draft_of
from service.workshop.release import Released, ReleaseError, release
from tests.workshop.conftest import Run
from tests.workshop.world import EXACT, OPTIONS, draft, row, write

GOOD = [row("Paris", 1.0), row("paris", 0.0)]


def released(folder: Path, into: Path | None = None) -> Released:
    found = draft_of(folder, OPTIONS)
    assert found is not None
    return release(found, into or folder.parent)


def lock_of(directory: Path) -> list[str]:
    return (directory / "definitions.lock").read_text().splitlines()


def test_first_release_is_version_one_with_a_lock(definitions: Path) -> None:
    document = {**EXACT, "reference": {"$file": "r.md"}}
    folder = draft(definitions / "capital", document, r_md="Paris\n")
    first = released(folder)
    assert (first.grader, first.version, first.is_new) == ("capital", 1, True)
    assert json.loads(first.file.read_bytes()) == {**EXACT, "reference": "Paris"}
    assert lock_of(definitions) == [f"capital@1 {first.digest}"]
    assert registry.load([definitions], OPTIONS).get("capital").digest == first.digest


def test_same_content_is_the_version_there_is(definitions: Path) -> None:
    folder = draft(definitions / "capital", EXACT)
    first = released(folder)
    before = first.file.stat().st_mtime_ns
    again = released(folder)
    assert (again.version, again.is_new, again.file) == (1, False, first.file)
    assert first.file.stat().st_mtime_ns == before
    draft(folder, {**EXACT, "operation": "ne"})
    assert released(folder).version == 2
    draft(folder, EXACT)
    assert released(folder).version == 1


def test_lock_stays_sorted_and_its_lines_unchanged(definitions: Path) -> None:
    for name in ("b", "a-b", "a"):
        for operation in ("eq", "ne"):
            released(draft(definitions / name, {**EXACT, "operation": operation}))
    loaded = registry.load([definitions], OPTIONS)
    every = [each for name in loaded.names() for each in loaded.versions(name)]
    assert "\n".join(lock_of(definitions)) + "\n" == registry.lock_lines(every)
    before = lock_of(definitions)
    for number in range(3, 12):
        released(draft(definitions / "b", {**EXACT, "name": f"b{number}"}))
    after = lock_of(definitions)
    assert set(before) <= set(after)
    assert [line.split()[0] for line in after[-2:]] == ["b@10", "b@11"]


def test_first_lock_pins_the_neighbours_too(definitions: Path) -> None:
    write(definitions / "near", EXACT)
    (definitions / "README.md").write_text("beside")
    released(draft(definitions / "capital", EXACT))
    assert [line.split()[0] for line in lock_of(definitions)] == ["capital@1", "near@1"]


def test_draft_elsewhere_is_brought_along(tmp_path: Path, definitions: Path) -> None:
    folder = draft(tmp_path / "desk" / "capital", EXACT, *GOOD)
    (folder / "README.md").write_text("# capital\n\nWhat it does.\n")
    first = released(folder, definitions)
    assert not released(folder, definitions).is_new
    assert first.file == definitions / "capital" / "1.json"
    assert (definitions / "capital" / "src" / "grader.json").exists()
    assert registry.load([definitions], OPTIONS).get("capital").description == "What it does."
    assert not (folder / "1.json").exists()


def test_version_changed_after_its_release_is_refused(definitions: Path) -> None:
    folder = draft(definitions / "capital", EXACT)
    released(folder)
    (folder / "1.json").write_text(json.dumps({**EXACT, "operation": "like"}))
    draft(folder, {**EXACT, "operation": "ne"})
    with pytest.raises(ReleaseError, match="capital@1 was changed after its release"):
        released(folder)
    assert not (folder / "2.json").exists()


def test_interrupted_release_is_finished(definitions: Path) -> None:
    folder = draft(definitions / "capital", EXACT)
    released(folder)
    (definitions / "definitions.lock").write_text("")
    again = released(folder)
    assert not again.is_new
    assert lock_of(definitions) == [f"capital@1 {again.digest}"]


def test_version_that_appears_meanwhile_is_not_overwritten(
    definitions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = draft(definitions / "capital", EXACT)

    def link(_source: Path, target: Path) -> None:
        raise FileExistsError(target)

    monkeypatch.setattr(os, "link", link)
    with pytest.raises(ReleaseError, match="appeared meanwhile"):
        released(folder)
    assert [path.name for path in sorted(folder.iterdir())] == ["examples.jsonl", "src"]


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("definitions.lock", "nonsense\n", "not a line of a lock: 'nonsense'"),
        ("capital/1.json", "{", "1.json: "),
        ("capital/2.json", "{}", "versions are missing"),
    ],
)
def test_state_that_makes_no_sense_is_named(
    definitions: Path, name: str, content: str, problem: str
) -> None:
    folder = draft(definitions / "capital", EXACT)
    (definitions / name).write_text(content)
    with pytest.raises(ReleaseError, match=problem):
        released(folder)


def test_faulty_draft_is_not_released(definitions: Path) -> None:
    with pytest.raises(ReleaseError, match="operation"):
        released(draft(definitions / "capital", {**EXACT, "operation": "equals"}))


class TestCommand:
    def test_release_tells_the_version_and_its_file(self, run: Run, definitions: Path) -> None:
        folder = draft(definitions / "capital", EXACT, *GOOD)
        code, out, err = run("release", folder)
        assert (code, err) == (0, "")
        assert out.startswith("capital@1 sha256:")
        assert out.endswith(f"{folder / '1.json'}\n")
        code, _, err = run("release", folder)
        assert (code, err) == (0, "the same content was released as capital@1 before\n")

    @pytest.mark.parametrize("examples", [[], [row("Paris", 0.5)]], ids=["none", "failing"])
    def test_nothing_is_written_when_the_examples_fail(
        self, run: Run, definitions: Path, examples: list[Any]
    ) -> None:
        folder = draft(definitions / "capital", EXACT, *examples)
        code, out, err = run("release", folder, "--definitions", definitions)
        assert (code, out) == (1, "")
        assert err.endswith("nothing was released\n")
        assert not (folder / "1.json").exists()

    def test_folder_without_sources_is_refused(self, run: Run, definitions: Path) -> None:
        code, _, err = run("release", definitions)
        assert code == 2
        assert "no src/grader.json to release" in err

    def test_folder_of_versions_is_pinned(self, run: Run, definitions: Path) -> None:
        write(definitions / "other", EXACT)
        folder = write(definitions / "capital", EXACT)
        code, out, _ = run("release", folder)
        digest = registry.load([definitions], OPTIONS).get("capital").digest
        assert (code, out) == (0, f"capital@1 {digest}\n")
        assert lock_of(definitions) == [f"{name}@1 {digest}" for name in ("capital", "other")]
        (folder / "2.json").write_text(json.dumps({**EXACT, "reference": "Paris"}))
        assert run("release", folder).code == 0
        assert len(lock_of(definitions)) == 3
        (folder / "2.json").write_text(json.dumps({**EXACT, "reference": "Rome"}))
        code, out, err = run("release", folder)
        assert (code, out) == (2, "")
        assert "capital@2 was changed after its release" in err

    def test_version_that_cannot_be_served_is_not_pinned(self, run: Run, definitions: Path) -> None:
        folder = write(definitions / "capital", {**EXACT, "operation": "is"})
        code, _, err = run("release", folder)
        assert code == 2
        assert f"{folder / '1.json'}: /operation: " in err
        assert not (definitions / "definitions.lock").exists()

    def test_problems_are_told_without_a_traceback(self, run: Run, definitions: Path) -> None:
        folder = draft(definitions / "capital", EXACT, *GOOD)
        (definitions / "definitions.lock").write_text("nonsense\n")
        assert run("release", folder).code == 2
        missing = definitions / "missing" / "deeper"
        (definitions / "missing").write_text("a file where a directory should be")
        code, _, err = run("release", folder, "--definitions", missing)
        assert (code, err) == (2, f"gradekeeper: {missing / 'capital'}: Not a directory\n")
