"""Versioned definitions: what loads, what is refused and why, and that nothing changes later."""

import json
from pathlib import Path
from typing import Any

import pytest

from graders import registry
from graders.building import Options
from graders.errors import UnknownGraderError, UnknownVersionError
from graders.registry import BrokenDefinitionsError, Definition, Registry

EXACT = {
    "type": "string_check",
    "name": "exact",
    "operation": "eq",
    "input": "{{sample.output_text}}",
    "reference": "{{item.a}}",
}
EXAMPLE = {"item": {"a": "x"}, "model_sample": "x", "reward": 1.0}


def write(directory: Path, name: str, *versions: Any, **files: str) -> Path:
    folder = directory / name
    folder.mkdir(parents=True)
    for number, version in enumerate(versions, start=1):
        (folder / f"{number}.json").write_text(json.dumps(version))
    for file, text in files.items():
        path = folder / {"readme": "README.md", "examples": "examples.jsonl"}.get(
            file, f"{file}.json"
        )
        path.write_text(text)
    return folder


def load(*directories: Path) -> Registry:
    return registry.load(directories, Options())


def broken(*directories: Path) -> dict[str, list[tuple[str, str]]]:
    """Name of the file or folder → (pointer, code) of what is wrong in it."""
    with pytest.raises(BrokenDefinitionsError) as raised:
        load(*directories)
    return {
        Path(file).name: [(finding.pointer, finding.code) for finding in findings]
        for file, findings in raised.value.findings.items()
    }


def lock(directory: Path) -> Path:
    loaded = load(directory)
    path = directory / registry.LOCK
    definitions = [each for name in loaded.names() for each in loaded.versions(name)]
    path.write_text(registry.lock_lines(definitions))
    return path


class TestLookUp:
    @pytest.fixture
    def loaded(self, tmp_path: Path) -> Registry:
        second = {**EXACT, "operation": "ne"}
        labels = '{"stable": 1, "beta-2": 2}'
        write(tmp_path, "exact", EXACT, second, labels=labels, readme="# exact\n\nWhat it\ndoes.\n")
        write(tmp_path, "another", EXACT)
        return load(tmp_path)

    @pytest.mark.parametrize(
        ("key", "version"), [("1", 1), ("2", 2), ("latest", 2), ("stable", 1), ("beta-2", 2)]
    )
    def test_version_is_found_by_number_and_label(
        self, loaded: Registry, key: str, version: int
    ) -> None:
        assert loaded.get("exact", key).version == version

    def test_last_version_is_the_default(self, loaded: Registry) -> None:
        assert loaded.get("exact") is loaded.get("exact", "2")

    def test_names_and_versions_are_listed_in_order(self, loaded: Registry) -> None:
        assert loaded.names() == ["another", "exact"]
        assert [definition.version for definition in loaded.versions("exact")] == [1, 2]
        assert len(loaded) == 3

    def test_labels_are_listed_without_latest(self, loaded: Registry) -> None:
        assert loaded.labels("exact") == {"stable": 1, "beta-2": 2}
        assert loaded.labels("another") == {}

    def test_unknown_grader_is_told_the_known_ones(self, loaded: Registry) -> None:
        for look_up in (loaded.get, loaded.versions):
            with pytest.raises(UnknownGraderError) as raised:
                look_up("exakt")
            assert raised.value.known == ("another", "exact")

    @pytest.mark.parametrize("key", ["3", "0", "01", "-1", "", "LATEST", "1.0"])
    def test_unknown_version_is_told_the_known_ones(self, loaded: Registry, key: str) -> None:
        with pytest.raises(UnknownVersionError) as raised:
            loaded.get("exact", key)
        assert set(raised.value.known) == {"1", "2", "stable", "beta-2", "latest"}

    def test_answers_can_be_changed_without_changing_the_registry(self, loaded: Registry) -> None:
        loaded.names().clear()
        loaded.versions("exact").clear()
        loaded.labels("exact").clear()
        assert loaded.names() == ["another", "exact"]
        assert len(loaded.versions("exact")) == 2
        assert loaded.labels("exact") == {"stable": 1, "beta-2": 2}

    def test_definitions_are_frozen(self, loaded: Registry) -> None:
        with pytest.raises(AttributeError):
            loaded.get("exact").version = 9  # type: ignore[misc]

    def test_definition_knows_its_description_and_signature(self, loaded: Registry) -> None:
        definition = loaded.get("exact")
        assert definition.description == "What it does."
        assert definition.signature == f"exact@2|{definition.digest}|engine:1|render:json"
        assert loaded.get("another").description == ""

    def test_empty_registry_has_nothing(self) -> None:
        assert len(Registry()) == 0
        with pytest.raises(UnknownGraderError, match="known graders: none"):
            Registry().get("exact")


class TestLoad:
    def test_document_is_kept_byte_for_byte(self, tmp_path: Path) -> None:
        text = b'{ "type":"string_check" , "name":"g","operation":"eq",\n"input":"","reference":""}'
        folder = write(tmp_path, "exact")
        (folder / "1.json").write_bytes(text)
        assert load(tmp_path).get("exact").document == text

    def test_layout_and_key_order_do_not_change_the_digest(self, tmp_path: Path) -> None:
        write(tmp_path / "one", "exact", EXACT)
        folder = write(tmp_path / "two", "exact")
        shuffled = dict(sorted(EXACT.items(), reverse=True))
        (folder / "1.json").write_text(json.dumps(shuffled, indent=7))
        digests = {load(tmp_path / each).get("exact").digest for each in ("one", "two")}
        assert len(digests) == 1

    def test_several_directories_make_one_registry(self, tmp_path: Path) -> None:
        write(tmp_path / "one", "a", EXACT)
        write(tmp_path / "two", "b", EXACT)
        assert load(tmp_path / "one", tmp_path / "two").names() == ["a", "b"]

    def test_files_and_hidden_folders_beside_the_graders_are_ignored(self, tmp_path: Path) -> None:
        write(tmp_path, "exact", EXACT)
        write(tmp_path, ".git", "no grader")
        write(tmp_path, "__pycache__", "no grader")
        (tmp_path / "README.md").write_text("# Ours\n")
        (tmp_path / "exact" / "01.json").write_text("no version")
        (tmp_path / "exact" / "notes.txt").write_text("no version")
        assert load(tmp_path).names() == ["exact"]

    def test_draft_without_a_version_is_not_served(self, tmp_path: Path) -> None:
        write(tmp_path, "exact", EXACT)
        (tmp_path / "draft" / "src").mkdir(parents=True)
        (tmp_path / "draft" / "src" / "grader.json").write_text("not even JSON")
        assert load(tmp_path).names() == ["exact"]

    def test_examples_are_read_when_asked_for(self, tmp_path: Path) -> None:
        lines = f"{json.dumps(EXAMPLE)}\n\n{json.dumps({**EXAMPLE, 'note': 'é'})}\n"
        write(tmp_path, "exact", EXACT, examples=lines)
        write(tmp_path, "without", EXACT)
        loaded = load(tmp_path)
        assert loaded.get("exact").examples() == [EXAMPLE, {**EXAMPLE, "note": "é"}]
        assert loaded.get("without").examples() == []

    def test_examples_begin_with_a_version(self, tmp_path: Path) -> None:
        later = {**EXAMPLE, "since": 2, "note": "later"}
        write(tmp_path, "exact", EXACT, examples=f"{json.dumps(EXAMPLE)}\n{json.dumps(later)}")
        assert broken(tmp_path) == {"examples.jsonl": [("", "invalid_examples")]}
        (tmp_path / "exact" / "2.json").write_text(json.dumps({**EXACT, "operation": "ilike"}))
        loaded = load(tmp_path)
        assert loaded.get("exact", "1").examples() == [EXAMPLE]
        assert loaded.get("exact", "2").examples() == [EXAMPLE, later]

    def test_examples_may_be_of_the_draft(self, tmp_path: Path) -> None:
        write(tmp_path, "exact", EXACT, examples=json.dumps({**EXAMPLE, "since": 2}))
        (tmp_path / "exact" / "src").mkdir()
        (tmp_path / "exact" / "src" / "grader.json").write_text("{}")
        assert load(tmp_path).get("exact").examples() == []

    @pytest.mark.parametrize(
        ("readme", "description"),
        [("", ""), ("# Title\n", ""), ("# T\n\nOne\ntwo.\n\nThree.", "One two."), ("\xff", "ÿ")],
    )
    def test_description_is_the_first_paragraph(
        self, tmp_path: Path, readme: str, description: str
    ) -> None:
        write(tmp_path, "exact", EXACT, readme=readme)
        assert load(tmp_path).get("exact").description == description

    def test_undecodable_readme_is_no_reason_to_stop(self, tmp_path: Path) -> None:
        folder = write(tmp_path, "exact", EXACT)
        (folder / "README.md").write_bytes(b"\xff\xfe")
        assert load(tmp_path).get("exact").description == "\ufffd\ufffd"


class TestBroken:
    def test_missing_directory_is_named(self, tmp_path: Path) -> None:
        assert broken(tmp_path / "absent") == {"absent": [("", "missing_directory")]}

    def test_every_broken_file_is_reported_with_every_finding(self, tmp_path: Path) -> None:
        write(tmp_path, "good", EXACT)
        write(tmp_path, "bad", EXACT, {**EXACT, "operation": "is", "input": 5})
        write(tmp_path, "worse", {"type": "nonsense", "name": "w"})
        assert broken(tmp_path) == {
            "2.json": [("/operation", "invalid_value"), ("/input", "invalid_type")],
            "1.json": [("/type", "invalid_value")],
        }

    def test_message_has_one_line_an_error_with_file_and_place(self, tmp_path: Path) -> None:
        write(tmp_path, "bad", {**EXACT, "operation": "is", "note": 1})
        with pytest.raises(BrokenDefinitionsError) as raised:
            load(tmp_path)
        (line,) = str(raised.value).splitlines()
        assert line.startswith(f"{tmp_path / 'bad' / '1.json'}#/operation: Invalid value")

    @pytest.mark.parametrize(
        "text",
        [b"", b"{", b'{"a": 1} x', b"\xff", b"[" * 100_000, b'{"a": "\\ud800"}', b"NaN"],
        ids=range(7),
    )
    def test_file_that_is_no_json_is_named(self, tmp_path: Path, text: bytes) -> None:
        folder = write(tmp_path, "bad")
        (folder / "1.json").write_bytes(text)
        assert broken(tmp_path) == {"1.json": [("", "invalid_json")]}

    def test_version_that_cannot_be_read_is_named(self, tmp_path: Path) -> None:
        (write(tmp_path, "bad") / "1.json").mkdir()
        assert broken(tmp_path) == {"1.json": [("", "unreadable")]}

    def test_key_that_stands_twice_is_refused(self, tmp_path: Path) -> None:
        folder = write(tmp_path, "bad")
        text = json.dumps(EXACT)[:-1] + ', "operation": "ne", "operation": "eq"}'
        (folder / "1.json").write_text(text)
        assert broken(tmp_path) == {"1.json": [("", "repeated_key")]}

    def test_nameless_definition_cannot_be_stored(self, tmp_path: Path) -> None:
        nameless = {key: value for key, value in EXACT.items() if key != "name"}
        write(tmp_path, "bad", nameless)
        assert ("/name", "missing_required_parameter") in broken(tmp_path)["1.json"]

    @pytest.mark.parametrize("name", ["Exact", "a b", "-a", "a-", "a--b", "é", "a" * 101])
    def test_folder_name_must_be_usable_in_a_url(self, tmp_path: Path, name: str) -> None:
        write(tmp_path, name, EXACT)
        assert broken(tmp_path) == {name: [("", "invalid_name")]}

    @pytest.mark.parametrize("versions", [[], [2], [1, 3], [1, 2, 4]])
    def test_gap_in_the_versions_is_refused(self, tmp_path: Path, versions: list[int]) -> None:
        folder = write(tmp_path, "bad")
        for version in versions:
            (folder / f"{version}.json").write_text(json.dumps(EXACT))
        assert broken(tmp_path) == {"bad": [("", "version_gap")]}

    def test_one_name_in_two_directories_is_refused(self, tmp_path: Path) -> None:
        write(tmp_path / "one", "exact", EXACT)
        write(tmp_path / "two", "exact", EXACT)
        assert broken(tmp_path / "one", tmp_path / "two") == {"exact": [("", "duplicate_name")]}

    @pytest.mark.parametrize(
        ("labels", "findings"),
        [
            ("[]", [("", "invalid_labels")]),
            ("{", [("", "invalid_labels")]),
            ('{"a": "1"}', [("", "invalid_labels")]),
            ('{"a": 0, "b": 2}', [("/a", "invalid_labels"), ("/b", "invalid_labels")]),
            ('{"latest": 1}', [("/latest", "invalid_labels")]),
            ('{"1": 1, "A/B": 1}', [("/1", "invalid_labels"), ("/A~1B", "invalid_labels")]),
        ],
    )
    def test_labels_must_name_existing_versions(
        self, tmp_path: Path, labels: str, findings: list[tuple[str, str]]
    ) -> None:
        write(tmp_path, "bad", EXACT, labels=labels)
        assert broken(tmp_path) == {"labels.json": findings}

    @pytest.mark.parametrize(
        "examples",
        [
            "{",
            "[1]",
            json.dumps({"item": {}, "reward": 1.0}),
            json.dumps({"model_sample": "", "reward": 1.0}),
            json.dumps({"item": {}, "sample": {}}),
        ],
        ids=range(5),
    )
    def test_examples_must_be_complete(self, tmp_path: Path, examples: str) -> None:
        write(tmp_path, "bad", EXACT, examples=examples)
        assert broken(tmp_path) == {"examples.jsonl": [("", "invalid_examples")]}


class TestLock:
    @pytest.fixture
    def locked(self, tmp_path: Path) -> Path:
        write(tmp_path, "exact", EXACT, {**EXACT, "operation": "ne"})
        write(tmp_path, "other", EXACT)
        lock(tmp_path)
        return tmp_path

    def test_lock_lines_name_every_version(self, locked: Path) -> None:
        digest = load(locked).get("other").digest
        lines = (locked / registry.LOCK).read_text().splitlines()
        assert [line.split()[0] for line in lines] == ["exact@1", "exact@2", "other@1"]
        assert lines[2] == f"other@1 {digest}"

    def test_changed_version_is_refused(self, locked: Path) -> None:
        (locked / "exact" / "1.json").write_text(json.dumps({**EXACT, "operation": "like"}))
        with pytest.raises(BrokenDefinitionsError, match="versions are immutable") as raised:
            load(locked)
        (findings,) = raised.value.findings.values()
        assert [finding.code for finding in findings] == ["changed_version"]
        assert "exact@1" in findings[0].message

    def test_new_layout_is_no_change(self, locked: Path) -> None:
        (locked / "exact" / "1.json").write_text(json.dumps(EXACT, indent=4))
        assert len(load(locked)) == 3

    def test_new_version_needs_its_line_and_is_told_it(self, locked: Path) -> None:
        third = {**EXACT, "operation": "like"}
        (locked / "exact" / "3.json").write_text(json.dumps(third))
        with pytest.raises(BrokenDefinitionsError) as raised:
            load(locked)
        line = str(raised.value).rpartition("add '")[2].removesuffix("'.")
        with (locked / registry.LOCK).open("a") as file:
            file.write(f"{line}\n")
        assert load(locked).get("exact").version == 3

    def test_missing_last_version_is_noticed(self, locked: Path) -> None:
        (locked / "exact" / "2.json").unlink()
        assert broken(locked) == {registry.LOCK: [("", "missing_version")]}

    def test_broken_version_is_not_called_missing_too(self, locked: Path) -> None:
        (locked / "exact" / "2.json").write_text("{")
        (locked / "exact" / "1.json").unlink()
        assert broken(locked) == {"exact": [("", "version_gap")]}
        (locked / "exact" / "1.json").write_text("{")
        assert set(broken(locked)) == {"1.json", "2.json"}

    @pytest.mark.parametrize("line", ["exact@1", "exact sha256:00", "exact@0 sha256:0", "", "# x"])
    def test_odd_line_is_refused(self, locked: Path, line: str) -> None:
        with (locked / registry.LOCK).open("a") as file:
            file.write(f"{line}\n")
        assert broken(locked) == {registry.LOCK: [("", "invalid_lock")]}

    def test_version_pinned_twice_is_refused(self, locked: Path) -> None:
        with (locked / registry.LOCK).open("a") as file:
            file.write(f"exact@1 sha256:{'0' * 64}\n")
        assert broken(locked) == {registry.LOCK: [("", "invalid_lock")]}

    def test_lock_that_is_no_text_is_refused(self, locked: Path) -> None:
        (locked / registry.LOCK).write_bytes(b"\xff\xfe\n")
        assert ("", "invalid_lock") in broken(locked)[registry.LOCK]

    def test_directory_without_lock_is_not_pinned(self, locked: Path) -> None:
        (locked / registry.LOCK).unlink()
        (locked / "exact" / "1.json").write_text(json.dumps({**EXACT, "operation": "like"}))
        assert len(load(locked)) == 3


def test_bundled_definitions_load() -> None:
    assert all(
        isinstance(each, Definition) for each in load(registry.BUNDLED).versions("exact-answer")
    )
