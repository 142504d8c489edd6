"""Authoring as files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from service.workshop.assembly import AssemblyError, assemble
from service.workshop.library import draft_of
from tests.workshop.world import OPTIONS, draft


def assembled(folder: Path, document: Any, **files: str) -> Any:
    return assemble(draft(folder / "grader", document, **files) / "src")


def test_strings_come_from_files_wherever_they_stand(tmp_path: Path) -> None:
    document = {"a": {"$file": "a.md"}, "b": [{"content": {"$file": "b.py"}}, 1, None]}
    result = assembled(tmp_path, document, a_md="# A\n\n", b_py="x = 'é'\r\n")
    assert result == {"a": "# A\n", "b": [{"content": "x = 'é'"}, 1, None]}


def test_file_in_a_folder_is_found(tmp_path: Path) -> None:
    folder = draft(tmp_path / "g", {"a": {"$file": "prompts/a.md"}})
    (folder / "src" / "prompts").mkdir()
    (folder / "src" / "prompts" / "a.md").write_text("deep")
    assert assemble(folder / "src") == {"a": "deep"}


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        ({"a": {"$file": "missing.md"}}, "missing.md: No such file"),
        ({"a": [{"$file": "../examples.jsonl"}]}, "#/a/0: ../examples.jsonl lies outside"),
        ({"a": {"$file": "/etc/hostname"}}, "/etc/hostname lies outside"),
        ({"a": {"$file": "b.md", "name": "x"}}, 'expected {"$file": "path"} and nothing else'),
        ({"a": {"$file": 1}}, 'expected {"$file": "path"} and nothing else'),
    ],
)
def test_wrong_reference_is_named(tmp_path: Path, document: Any, problem: str) -> None:
    with pytest.raises(AssemblyError) as raised:
        assembled(tmp_path, document, b_md="b")
    assert problem in str(raised.value)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b"{", "not JSON"),
        (b'{"a": 1, "a": 2}', "the key 'a' stands twice"),
        (b"\xff", "not UTF-8"),
        (b" " * (4 * 1024 * 1024 + 1), "over 4194304 bytes"),
    ],
)
def test_unreadable_grader_is_named(tmp_path: Path, text: bytes, problem: str) -> None:
    folder = draft(tmp_path / "grader", {})
    (folder / "src" / "grader.json").write_bytes(text)
    found = draft_of(folder, OPTIONS)
    assert found is not None
    assert found.grader is None
    assert problem in found.problems[0]


def test_draft_that_does_not_compile_keeps_every_finding(tmp_path: Path) -> None:
    document = {"type": "string_check", "name": "x", "operation": "eq", "input": "{{x}}"}
    found = draft_of(draft(tmp_path / "grader", document), OPTIONS)
    assert found is not None
    assert found.title == "grader (draft)"
    assert len(found.problems) == 2


def test_folder_without_src_is_no_draft(tmp_path: Path) -> None:
    assert draft_of(tmp_path, OPTIONS) is None
