"""``gradekeeper export``: a definition as exactly the JSON to submit, and what that leaves out."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import msgspec

from graders.engine import CompiledGrader
from graders.errors import UncarriedError
from graders.export import FORMS, TARGETS, Hyperparameters, Job, export
from service.cli import failures
from service.cli.failures import CommandError
from service.cli.output import note, show_json
from service.cli.runtime import compile_file, find, is_file_argument, read_settings

EXIT_CODES = {
    failures.OK: "exported; what was left out is on standard error",
    failures.UNUSABLE: "unusable arguments, settings or definition, or the target refuses it",
}
_JOB_FLAGS = ("model", "training_file", "validation_file")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("grader", metavar="NAME[@VERSION]|FILE.json")
    parser.add_argument("--definitions", type=Path, metavar="DIR", help="only those in DIR")
    parser.add_argument("--target", choices=TARGETS, default="openai", help="who takes the JSON")
    parser.add_argument(
        "--form",
        choices=FORMS,
        default="grader",
        help="the bare grader, a whole fine-tuning job, or Evals testing criteria",
    )
    job = parser.add_argument_group("with --form job")
    job.add_argument("--model", help="base model")
    job.add_argument("--training-file", metavar="ID", help="file id")
    job.add_argument("--validation-file", metavar="ID", help="file id")
    job.add_argument("--suffix", help="suffix of the tuned model's name")
    job.add_argument("--seed", type=int)
    job.add_argument(
        "--hyperparameter",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help=f"may be repeated: {', '.join(Hyperparameters.__struct_fields__)}",
    )


def run(arguments: argparse.Namespace) -> int:
    """Write the body to submit."""
    job = _job(arguments)
    grader, metadata = _grader(arguments.grader, arguments.definitions)
    try:
        exported = export(
            grader, target=arguments.target, form=arguments.form, job=job, metadata=metadata
        )
    except UncarriedError as error:
        raise CommandError(str(error)) from error
    for finding in exported.left_out:
        note(f"{finding.pointer or '/'}: {finding.message}")
    show_json(exported.body)
    return failures.OK


def _grader(argument: str, definitions: Path | None) -> tuple[CompiledGrader, dict[str, str]]:
    """Return the grader, and what makes a job name the definition it came from."""
    settings = read_settings()
    if is_file_argument(argument):
        if definitions is not None:
            raise CommandError("--definitions is only for NAME[@VERSION]")
        grader = compile_file(Path(argument), settings)
        return grader, {"digest": grader.digest}
    definition = find(argument, settings, definitions)
    identity = f"{definition.name}@{definition.version}"
    return definition.grader, {"gradekeeper": identity, "digest": definition.digest}


def _job(arguments: argparse.Namespace) -> Job | None:
    given: dict[str, Any] = {
        name: value
        for name in (*_JOB_FLAGS, "suffix", "seed")
        if (value := getattr(arguments, name)) is not None
    }
    if arguments.form != "job":
        if given or arguments.hyperparameter:
            raise CommandError("model, files and hyperparameters are only for --form job")
        return None
    missing = [f"--{name.replace('_', '-')}" for name in _JOB_FLAGS if not given.get(name)]
    if missing:
        raise CommandError(f"--form job needs {' and '.join(missing)}")
    return Job(hyperparameters=_hyperparameters(arguments.hyperparameter), **given)


def _hyperparameters(pairs: list[str]) -> Hyperparameters:
    values: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or key not in Hyperparameters.__struct_fields__:
            known = ", ".join(Hyperparameters.__struct_fields__)
            raise CommandError(f"--hyperparameter {pair}: expected KEY=VALUE with KEY of {known}")
        values[key] = value
    try:
        return msgspec.convert(values, Hyperparameters, strict=False)
    except msgspec.ValidationError as error:
        raise CommandError(f"--hyperparameter: {error}") from error
