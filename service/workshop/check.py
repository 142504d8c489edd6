"""Checks definitions: every example gets its reward, and every target's lint has no errors."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable

import msgspec

from graders.building import Options
from graders.export import TARGETS
from graders.grade import Grade
from graders.lint import lint
from graders.ports import JudgeCall, Ports
from service.workshop.examples import Example, ExamplesError, read_examples
from service.workshop.explain import explanation
from service.workshop.library import Subject
from service.workshop.recorded import recorded_ports
from service.workshop.results import Result, Status

TOLERANCE = 1e-9  # between an example's reward and the one it gets
_UNDER_WAY = 16  # examples at once, so that waiting for judges and the sandbox overlaps


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """How examples are graded.

    Attributes:
        ports: The sandbox always; with ``live`` the judges too.
        live: Ask the judges instead of reading recorded replies.
        tolerance: With ``live``, how far a judged reward may be off, as a share of the span
            between the lowest and the highest reward of the examples.
    """

    ports: Ports
    live: bool = False
    tolerance: float = 0.2


async def check_subjects(
    subjects: Iterable[Subject], options: Options, terms: Terms
) -> list[Result]:
    """Return the results of examples and lint, in the order of ``subjects``."""
    gate = asyncio.Semaphore(_UNDER_WAY)
    groups = await asyncio.gather(
        *(_check_subject(subject, options, terms, gate) for subject in subjects)
    )
    return [result for group in groups for result in group]


async def _check_subject(
    subject: Subject, options: Options, terms: Terms, gate: asyncio.Semaphore
) -> list[Result]:
    if subject.grader is None:
        return [_failed(subject, "assembly", subject.problems)]
    try:
        examples = read_examples(subject.examples_file, subject.grader, subject.version)
    except ExamplesError as error:
        return [_failed(subject, subject.examples_file.name, error.problems)]
    if not examples:
        nothing = f"{subject.examples_file}: no examples, so nothing says what it gives"
        graded = [_failed(subject, subject.examples_file.name, (nothing,))]
    else:
        judged = allowed(examples.values(), terms)
        graded = await asyncio.gather(
            *(
                _check_example(subject, number, example, terms, judged, gate)
                for number, example in examples.items()
            )
        )
    return [*graded, *check_lint(subject, options)]


def _failed(subject: Subject, name: str, lines: tuple[str, ...]) -> Result:
    return Result(grader=subject.title, kind="files", name=name, status="failed", lines=lines)


def allowed(examples: Iterable[Example], terms: Terms) -> float:
    """Return how far off the rewards of live judges may be; ``examples`` are not empty."""
    rewards = [example.reward for example in examples]
    return terms.tolerance * (max(rewards) - min(rewards) or 1.0)


async def _check_example(  # noqa: PLR0913, PLR0917 - one example and the terms of all
    subject: Subject,
    number: int,
    example: Example,
    terms: Terms,
    judged: float,
    gate: asyncio.Semaphore,
) -> Result:
    assert subject.grader is not None  # noqa: S101 - the caller has looked
    grader = subject.grader
    result = Result(grader=subject.title, kind="example", name=name_of(number, example))
    if terms.live and (why := not_live(example)):
        return msgspec.structs.replace(result, status="skipped", lines=(why,))
    async with gate:
        started = time.perf_counter()
        try:
            grade, is_judged = await grade_example(subject, example, terms)
        except ExamplesError as error:
            return msgspec.structs.replace(result, status="failed", lines=error.problems)
        seconds = time.perf_counter() - started
    problems = differences(example, grade, judged if terms.live and is_judged else TOLERANCE)
    lines = explanation(grader, example, grade, problems) if problems else ()
    return msgspec.structs.replace(
        result, status="failed" if problems else "passed", lines=lines, seconds=seconds
    )


async def grade_example(subject: Subject, example: Example, terms: Terms) -> tuple[Grade, bool]:
    """Return the grade of an example, and whether a judge had a say in it.

    Raises:
        ExamplesError: Its recorded replies contradict each other.
    """
    assert subject.grader is not None  # noqa: S101 - drafts with faults are not graded
    grader, sample = subject.grader, example.graded_sample()
    if grader.is_pure:
        return grader.grade_now(example.item, sample), False
    ports = terms.ports
    if not terms.live:
        ports = recorded_ports(grader, example.item, sample, example, ports)
    requests = grader.requests(example.item, sample).values()
    is_judged = any(isinstance(call, JudgeCall) for call in requests)
    return await grader.grade(example.item, sample, ports), is_judged


def name_of(number: int, example: Example) -> str:
    """Return how an example is called in reports."""
    return f"line {number}{': ' if example.note else ''}{example.note}"


def not_live(example: Example) -> str:
    """Return why an example cannot be run with live judges; empty if it can."""
    replies = example.judge.values()
    if any(
        "content" in reply or "refusal" in reply or "finish_reason" in reply for reply in replies
    ):
        return "a live judge cannot be made to give this reply"
    if example.endpoint or example.embedding:
        return "endpoints and embeddings are only checked against recordings"
    return ""


def differences(example: Example, grade: Grade, tolerance: float) -> tuple[str, ...]:
    """Return how ``grade`` differs from what the example states."""
    lines: list[str] = []
    expected = {example.failure} if example.failure else set()
    got = {failure.code for failure in grade.failures}
    if abs(grade.reward - example.reward) > tolerance or expected != got:
        lines += [
            f"expected  reward {example.reward!r}{_codes(expected)}",
            f"got       reward {grade.reward!r}{_codes(got)}",
        ]
    for part, reward in example.sub_rewards.items():
        found = grade.sub_rewards.get(part, 0.0)
        if abs(found - reward) > tolerance:
            lines.append(f"part '{part}': expected {reward!r}, got {found!r}")
    return tuple(lines)


def _codes(codes: set[str]) -> str:
    return f" and failure {', '.join(sorted(codes))}" if codes else ", no failure"


def check_lint(subject: Subject, options: Options) -> list[Result]:
    """Return what lint says for every target: errors fail, warnings are noted."""
    results = []
    for target in TARGETS:
        findings = lint(subject.document, options, target=target)
        errors = any(finding.severity == "error" for finding in findings)
        status: Status = "failed" if errors else "noted" if findings else "passed"
        lines = tuple(f"{f.severity} at {f.pointer or '/'}: {f.message}" for f in findings)
        results.append(
            Result(grader=subject.title, kind="lint", name=target, status=status, lines=lines)
        )
    return results
