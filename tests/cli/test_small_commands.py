"""``list``, ``key`` and ``settings``."""

from __future__ import annotations

import json
import os
from pathlib import Path

from service.auth import Keyring, read_keys
from service.configuration import document
from service.settings import Settings
from tests.cli.conftest import Run
from tests.cli.world import write_json


def test_list_shows_name_type_versions_labels_and_description(run: Run) -> None:
    code, out, err = run("list")
    assert (code, err) == (0, "")
    lines = [line.split() for line in out.splitlines()]
    assert lines[0] == ["NAME", "TYPE", "VERSIONS", "LABELS", "DESCRIPTION"]
    assert lines[2][:7] == ["exact", "string_check", "1-2", "beta=2", "prod=1", "The", "very"]
    assert ["judged", "score_model", "1", "-"] in lines


def test_list_as_json_has_every_version_with_its_digest(run: Run) -> None:
    graders = {
        grader["name"]: grader for grader in json.loads(run("list", "--json").out)["graders"]
    }
    exact = graders["exact"]
    assert exact["labels"] == {"prod": 1, "beta": 2}
    assert exact["latest"] == 2
    assert [version["version"] for version in exact["versions"]] == [1, 2]
    assert all(version["digest"].startswith("sha256:") for version in exact["versions"])


def test_no_graders_at_all_is_said_and_no_error(run: Run, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    os.environ["GRADEKEEPER_DEFINITIONS"] = str(tmp_path / "empty")
    code, out, err = run("list")
    assert (code, out) == (0, "")
    assert "no graders; GRADEKEEPER_DEFINITIONS" in err


def test_broken_definitions_are_listed_with_their_files(run: Run, definitions: Path) -> None:
    write_json(definitions / "exact" / "1.json", {"type": "string_check", "name": "x"})
    write_json(definitions / "near" / "1.json", {"type": "nothing"})
    code, out, err = run("list")
    assert (code, out) == (2, "")
    assert err.startswith("gradekeeper: the definitions cannot be used:\n")
    assert f"{definitions}/exact/1.json#/operation: Missing required" in err
    assert f"{definitions}/exact/1.json#/reference: Missing required" in err
    assert f"{definitions}/near/1.json#/type: " in err


def test_key_prints_a_secret_and_an_entry_that_opens_with_it(run: Run) -> None:
    code, out, err = run("key", "trainer", "--scope", "score", "--scope", "run")
    secret, entry = out.splitlines()
    (key,) = read_keys(f"[{entry}]".encode())
    assert code == 0
    assert "shown only now" in err
    assert Keyring((key,)).find(secret.encode()) == key
    assert (key.name, sorted(key.scopes)) == ("trainer", ["run", "score"])
    assert secret not in entry


def test_key_may_score_when_nothing_else_is_asked(run: Run) -> None:
    assert json.loads(run("key", "trainer").out.splitlines()[1])["scopes"] == ["score"]


def test_two_keys_never_share_a_secret(run: Run) -> None:
    assert run("key", "a").out.splitlines()[0] != run("key", "a").out.splitlines()[0]


def test_key_without_a_name_or_with_an_unknown_scope_is_refused(run: Run) -> None:
    assert run("key", " ") == (2, "", "gradekeeper: a key needs a name\n")
    assert "invalid choice: 'admin'" in run("key", "a", "--scope", "admin").err


def test_settings_are_shown_as_variables_with_secrets_masked(run: Run) -> None:
    os.environ.update(GRADEKEEPER_API_KEY="hidden", GRADEKEEPER_PORT="81")
    code, out, _ = run("settings")
    lines = out.splitlines()
    assert code == 0
    assert "GRADEKEEPER_PORT=81" in lines
    assert "GRADEKEEPER_API_KEY=***" in lines
    assert "GRADEKEEPER_ACCESS_LOG=true" in lines
    assert len(lines) == len(Settings.__struct_fields__)


def test_settings_as_markdown_is_the_reference(run: Run) -> None:
    assert run("settings", "--markdown").out == document()


def test_every_unusable_setting_is_named(run: Run) -> None:
    os.environ.update(GRADEKEEPER_PRT="1", GRADEKEEPER_PORT="many")
    code, _, err = run("settings")
    assert code == 2
    assert err == (
        "gradekeeper: GRADEKEEPER_PORT: Expected `int`, got 'many'\n"
        "GRADEKEEPER_PRT is no setting of gradekeeper; did you mean GRADEKEEPER_PORT?\n"
    )
