"""What an author states about attacks, beside the examples.

``probes.json``: ``{"above": 0.2, "known": {"attempt": {"reason": …, "reward": …}}}``, what an
attempt may earn and the weaknesses that are accepted; ``judge`` there is what a judge is assumed to
answer where nothing is recorded, so that the other parts can be attacked.

``probes.jsonl``: one ``{"attempt": …}`` a line with what judges answered to it (``judge``, as in
the examples), or with an answer to try (``model_sample`` or ``sample``; ``item`` for another row
than the best-rewarded example's).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from graders.engine import CompiledGrader
from graders.errors import RowError
from graders.sample import Sample
from service.workshop.examples import ExamplesError, Recorded, recording_problems

PROBES = "probes.json"
PROBE_LINES = "probes.jsonl"


class Weakness(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An attempt that is known to earn too much, or to break the grader.

    Attributes:
        reason: Why it is accepted.
        reward: What it earns.
        failure: Code of the failure that it causes.
    """

    reason: str
    reward: float
    failure: str | None = None


class Statement(Recorded, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The content of ``probes.json``; its replies are assumed where an attempt has none.

    Attributes:
        above: What an attempt may earn; None for the middle of the examples' rewards.
        known: Attempt → weakness.
    """

    above: float | None = None
    known: dict[str, Weakness] = msgspec.field(default_factory=dict)


class ProbeLine(
    Recorded, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """A line of ``probes.jsonl``.

    Attributes:
        attempt: Name of an attempt of ours, or of the author's own.
        item: The row of an attempt of the author's own.
        model_sample: Its answer's text.
        sample: Its whole sample object.
        note: What it is about.
    """

    attempt: str
    item: dict[str, Any] | None = None
    model_sample: str | None = None
    sample: dict[str, Any] | None = None
    note: str = ""


def read_statement(folder: Path, grader: CompiledGrader) -> Statement:
    """Return what ``probes.json`` states.

    Raises:
        ExamplesError: It cannot be read.
    """
    path = folder / PROBES
    if not path.exists():
        return Statement()
    try:
        statement = msgspec.json.decode(path.read_bytes(), type=Statement)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ExamplesError([f"{path}: {error}"]) from error
    problems = [f"{path}: {problem}" for problem in recording_problems(statement, grader)]
    if problems:
        raise ExamplesError(problems)
    return statement


def read_lines(folder: Path, grader: CompiledGrader) -> dict[str, ProbeLine]:
    """Return attempt → line of ``probes.jsonl``.

    Raises:
        ExamplesError: With everything that is wrong.
    """
    path = folder / PROBE_LINES
    lines: dict[str, ProbeLine] = {}
    problems: list[str] = []
    content = path.read_bytes().split(b"\n") if path.exists() else []
    for number, text in enumerate(content, start=1):
        if not text.strip():
            continue
        try:
            line = msgspec.json.decode(text, type=ProbeLine)
            Sample.from_object(line.sample or {})
        except (msgspec.DecodeError, UnicodeDecodeError, RowError) as error:
            problems.append(f"{path}:{number}: {error}")
            continue
        problems += [f"{path}:{number}: {each}" for each in recording_problems(line, grader)]
        if lines.setdefault(line.attempt, line) is not line:
            problems.append(f"{path}:{number}: '{line.attempt}' again")
    if problems:
        raise ExamplesError(problems)
    return lines


def write_lines(folder: Path, lines: dict[str, ProbeLine]) -> Path:
    """Write ``probes.jsonl`` and return it."""
    path = folder / PROBE_LINES
    path.write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in lines.values()))
    return path
