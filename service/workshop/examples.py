"""Reads ``examples.jsonl``: samples with the reward they must get and what judges answered.

The format is described in graders/README.md. Everything wrong in a file is found at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import msgspec

from graders.engine import CompiledGrader
from graders.errors import RowError
from graders.sample import JsonValue, Sample
from graders.schema import Multi


class ExamplesError(ValueError):
    """Examples that cannot be used.

    Attributes:
        problems: One line each, with file and line number.
    """

    def __init__(self, problems: list[str]) -> None:
        """Keep every problem."""
        self.problems = tuple(problems)
        super().__init__("\n".join(problems))


class Recorded(msgspec.Struct, frozen=True, kw_only=True):
    """What the outside answers to a sample, by part; ``""`` for a grader on its own.

    Attributes:
        judge: ``{"result": …}``, ``{"content": …}`` or ``{"refusal": …}``, and ``finish_reason``.
        endpoint: The JSON body.
        embedding: Two vectors.
    """

    judge: dict[str, dict[str, Any]] = {}
    endpoint: dict[str, JsonValue] = {}
    embedding: dict[str, tuple[tuple[float, ...], ...]] = {}


class Example(Recorded, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One line.

    Attributes:
        item: The dataset row.
        model_sample: The answer's text, unless ``sample`` is given.
        sample: The whole sample object.
        reward: What the grader gives.
        failure: Code of every failure there is; None for a reward to be trusted.
        sub_rewards: What these parts of a ``multi`` give.
        note: What the example shows.
        since: First version that gives this reward; earlier ones are not asked.
    """

    item: dict[str, Any]
    model_sample: str | msgspec.UnsetType = msgspec.UNSET
    sample: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET
    reward: float
    failure: str | None = None
    sub_rewards: dict[str, float] = {}
    note: str = ""
    since: Annotated[int, msgspec.Meta(ge=1)] = 1

    def graded_sample(self) -> Sample:
        """Return the model output."""
        if isinstance(self.sample, dict):
            return Sample.from_object(self.sample)
        return Sample(self.model_sample or "")

    def as_row(self) -> dict[str, Any]:
        """Return the row that a server grades."""
        if isinstance(self.sample, dict):
            return {"item": self.item, "sample": self.sample}
        return {"item": self.item, "model_sample": self.model_sample}


_decoder = msgspec.json.Decoder(Example)


def read_examples(
    path: Path, grader: CompiledGrader, version: int | None = None
) -> dict[int, Example]:
    """Return line number → example; empty when there is no file.

    Args:
        path: The file.
        grader: Says which parts there are.
        version: Leaves out examples of later versions; None, a draft, is the latest.

    Raises:
        ExamplesError: With everything that is wrong in the file.
    """
    if not path.exists():
        return {}
    examples: dict[int, Example] = {}
    problems: list[str] = []
    notes: dict[str, int] = {}
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            example = _decoder.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            problems.append(f"{path}:{number}: {error}")
            continue
        first = notes.setdefault(example.note, number)
        if example.note and first != number:
            problems.append(f"{path}:{number}: the note of line {first} again")
        problems += [f"{path}:{number}: {problem}" for problem in _problems(example, grader)]
        if version is None or example.since <= version:
            examples[number] = example
    if problems:
        raise ExamplesError(problems)
    return examples


def part_names(grader: CompiledGrader) -> tuple[str, ...]:
    """Return the keys of the parts; ``""`` alone for a grader on its own."""
    definition = grader.grader
    return tuple(definition.graders) if isinstance(definition, Multi) else ("",)


def recording_problems(recorded: Recorded, grader: CompiledGrader) -> Iterator[str]:
    """Yield what is wrong with recorded replies."""
    known = part_names(grader)
    parts = {*recorded.judge, *recorded.endpoint, *recorded.embedding}
    for part in sorted(parts.difference(known)):
        yield f"a reply is recorded for '{part}', but the parts are {list(known)}"
    for part, reply in recorded.judge.items():
        if not {"result", "content", "refusal"} & set(reply):
            yield f"the judge's reply to '{part}' needs result, content or refusal"


def _problems(example: Example, grader: CompiledGrader) -> Iterator[str]:
    if (example.sample is msgspec.UNSET) == (example.model_sample is msgspec.UNSET):
        yield "needs either model_sample or sample"
        return
    try:
        example.graded_sample()
    except RowError as error:
        yield str(error)
    unknown = sorted(set(example.sub_rewards).difference(part_names(grader)))
    if unknown:
        yield f"sub_rewards names no part: {unknown}"
    yield from recording_problems(example, grader)
