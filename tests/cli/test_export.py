"""``gradekeeper export``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Run
from tests.cli.world import EXACT, NEAR, write_json

JOB = ("--form", "job", "--model", "m", "--training-file", "t", "--validation-file", "v")


def test_a_named_version_is_written_as_it_is_submitted(run: Run) -> None:
    code, out, err = run("export", "exact@1")
    assert (code, json.loads(out), err) == (0, EXACT, "")


@pytest.mark.parametrize(
    ("version", "operation"), [("", "ilike"), ("@prod", "eq"), ("@2", "ilike")]
)
def test_versions_are_numbers_labels_or_the_latest(version: str, operation: str, run: Run) -> None:
    assert json.loads(run("export", f"exact{version}").out)["operation"] == operation


def test_definitions_come_from_the_directory_given(run: Run, tmp_path: Path) -> None:
    (tmp_path / "more" / "other").mkdir(parents=True)
    other = {**EXACT, "name": "other"}
    write_json(tmp_path / "more" / "other" / "1.json", other)
    assert run("export", "other").code != 0
    code, out, _ = run("export", "other", "--definitions", tmp_path / "more")
    assert (code, json.loads(out)) == (0, other)
    code, out, err = run("export", "exact", "--definitions", tmp_path / "more")
    assert (code, out) == (2, "")
    assert "no grader is named 'exact'" in err


def test_a_file_is_in_no_directory_of_definitions(run: Run, tmp_path: Path) -> None:
    file = write_json(tmp_path / "g.json", EXACT)
    code, _, err = run("export", file, "--definitions", tmp_path)
    assert code == 2
    assert "--definitions is only for NAME[@VERSION]" in err


def test_a_file_without_a_name_is_called_after_itself(run: Run, tmp_path: Path) -> None:
    nameless = {key: value for key, value in EXACT.items() if key != "name"}
    file = write_json(tmp_path / "mine.json", nameless)
    assert json.loads(run("export", file).out) == {**EXACT, "name": "mine"}


def test_what_is_left_out_goes_to_standard_error(run: Run) -> None:
    code, out, err = run("export", "near")
    assert code == 0
    assert "pass_threshold" not in json.loads(out)
    assert err == (
        "/pass_threshold: a grader in a job has no pass_threshold; keep it beside the job.\n"
    )


def test_a_job_names_model_files_and_where_the_grader_comes_from(run: Run) -> None:
    more = ("--suffix", "s", "--seed", "7")
    pairs = ("--hyperparameter", "n_epochs=3", "--hyperparameter", "batch_size=auto")
    body = json.loads(run("export", "exact@1", *JOB, *more, *pairs).out)
    assert body["method"] == {
        "type": "reinforcement",
        "reinforcement": {
            "grader": EXACT,
            "hyperparameters": {"n_epochs": 3, "batch_size": "auto"},
        },
    }
    assert body["metadata"]["gradekeeper"] == "exact@1"
    assert body["metadata"]["digest"].startswith("sha256:")
    assert (body["model"], body["training_file"], body["validation_file"]) == ("m", "t", "v")
    assert (body["suffix"], body["seed"]) == ("s", 7)


def test_a_job_from_a_file_names_the_digest(run: Run, tmp_path: Path) -> None:
    file = write_json(tmp_path / "g.json", EXACT)
    assert set(json.loads(run("export", file, *JOB).out)["metadata"]) == {"digest"}


def test_evals_take_criteria_with_a_threshold(run: Run) -> None:
    body = json.loads(run("export", "near", "--form", "evals").out)
    assert body == {"testing_criteria": [NEAR]}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("parts", "--form", "evals"), "target 'openai' cannot take this grader: Evals takes no"),
        (("none",), "no grader is named 'none'; known graders: coded, exact"),
        (("exact@9",), "grader 'exact' has no version '9'; known: 1, prod, 2, beta, latest"),
        (("exact", "--form", "job", "--model", "m"), "needs --training-file and --validation-file"),
        (("exact", "--seed", "7"), "model, files and hyperparameters are only for --form job"),
        (
            ("exact", *JOB, "--hyperparameter", "n_epochs"),
            "expected KEY=VALUE with KEY of batch_si",
        ),
        (("exact", *JOB, "--hyperparameter", "speed=1"), "--hyperparameter speed=1: expected KEY="),
        (("exact", *JOB, "--hyperparameter", "n_epochs=few"), "--hyperparameter: Invalid "),
        (("./none.json",), "none.json: No such file or directory"),
    ],
)
def test_what_cannot_be_exported_is_exit_code_2(
    arguments: tuple[str, ...], message: str, run: Run
) -> None:
    code, out, err = run("export", *arguments)
    assert (code, out) == (2, "")
    assert message in err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", ": Invalid type "),
        ("{", ": not JSON: "),
        ('{"type": "string_check"}', "#/operation: Missing "),
    ],
)
def test_an_unusable_file_is_listed_with_its_findings(
    text: str, message: str, run: Run, tmp_path: Path
) -> None:
    file = tmp_path / "g.json"
    file.write_text(text)
    code, out, err = run("export", file)
    assert (code, out) == (2, "")
    assert err.startswith("gradekeeper: the definition cannot be used:\n")
    assert f"{file}{message}" in err
