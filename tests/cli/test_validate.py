"""``gradekeeper validate``."""

from __future__ import annotations

import json
import os
from pathlib import Path

from tests.cli.conftest import Run
from tests.cli.world import EXACT, JUDGED, PARTS, write_json


def test_a_sound_file_is_ok(run: Run, tmp_path: Path) -> None:
    file = write_json(tmp_path / "g.json", EXACT)
    code, out, err = run("validate", file)
    assert (code, err) == (0, "")
    assert out == f"{file}: ok\n1 files, 0 errors, 0 warnings\n"


def test_every_finding_of_every_file_is_shown_with_its_place(run: Run, tmp_path: Path) -> None:
    wrong = {**EXACT, "operation": "same", "reference": "{{item.}}"}
    first = write_json(tmp_path / "a.json", {**PARTS, "graders": {"same": wrong, "near": EXACT}})
    second = write_json(tmp_path / "b.json", {**EXACT, "operation": "neq"})
    code, out, _ = run("validate", first, second)
    assert code == 1
    assert f"{first}#/graders/same/operation: error: Invalid value" in out
    assert f"{first}#/graders/same/reference: error: " in out
    assert "\n    {{item.}}\n    " in out
    assert f"{second}#/operation: warning: 'neq' is read as 'ne'." in out
    assert out.endswith("2 files, 2 errors, 1 warnings\n")


def test_warnings_alone_are_no_failure(run: Run, tmp_path: Path) -> None:
    file = write_json(tmp_path / "g.json", {**EXACT, "operation": "neq"})
    assert run("validate", file).code == 0


def test_json_holds_the_same_findings(run: Run, tmp_path: Path) -> None:
    good = write_json(tmp_path / "a.json", EXACT)
    bad = write_json(tmp_path / "b.json", {**EXACT, "operation": "same"})
    code, out, _ = run("validate", "--json", good, bad)
    assert code == 1
    first, second = json.loads(out)
    assert first == {"file": str(good), "ok": True, "findings": []}
    assert second["ok"] is False
    (finding,) = second["findings"]
    assert (finding["pointer"], finding["severity"], finding["code"]) == (
        "/operation",
        "error",
        "invalid_value",
    )


def test_a_target_adds_what_it_cannot_carry(run: Run, tmp_path: Path) -> None:
    file = write_json(tmp_path / "g.json", {**JUDGED, "model": "o3-pro"})
    assert "/model" not in run("validate", file).out
    code, out, _ = run("validate", file, "--target", "azure")
    assert code == 0
    assert "/model: warning: " in out


def test_what_is_no_json_is_a_finding(run: Run, tmp_path: Path) -> None:
    torn, deep, binary = tmp_path / "torn.json", tmp_path / "deep.json", tmp_path / "binary.json"
    torn.write_text('{"type": ')
    deep.write_text("[" * 100_000)
    binary.write_bytes(b'{"type": "\xff"}')
    code, out, _ = run("validate", torn, deep, binary)
    assert code == 1
    assert out.count(".json: error: not JSON: ") == 3


def test_a_file_that_is_not_there_is_exit_code_2(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "none.json"
    expected = f"gradekeeper: {file}: No such file or directory\n"
    assert run("validate", file) == (2, "", expected)


def test_judge_models_with_an_end_are_a_warning(run: Run, tmp_path: Path) -> None:
    file = write_json(tmp_path / "judged.json", JUDGED)
    routes = {"routes": [], "successors": {JUDGED["model"]: "gpt-9"}}
    os.environ["GRADEKEEPER_JUDGE_ROUTES_FILE"] = str(write_json(tmp_path / "r.json", routes))
    code, out, _ = run("validate", file)
    assert code == 0
    assert f"{file}#/model: warning: Judge model 'gpt-4o-2024-08-06' sh" in out
    assert "; routes send it to 'gpt-9'." in out
