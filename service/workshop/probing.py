"""Probes a grader: grades every attack, and compares with the weaknesses its author admits.

A weakness that grows, or that is gone, fails as much as an unknown one: what is stated stays true.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable

import msgspec

from graders.engine import CompiledGrader
from graders.grade import Grade
from graders.sample import Sample
from service.workshop.attacks import Attempt, attempts, target_of
from service.workshop.check import TOLERANCE, Terms
from service.workshop.examples import Example, ExamplesError, Recorded, read_examples
from service.workshop.explain import shortened
from service.workshop.library import Subject
from service.workshop.probe_files import PROBES, ProbeLine, Weakness, read_lines, read_statement
from service.workshop.recorded import NOT_RECORDED, JudgeRecorder, recorded_ports
from service.workshop.results import Result, Status

NOT_ASKED = (
    "NOT PROBED: a judge has a say, and what it answers to this is not recorded in probes.jsonl; "
    "`gradekeeper probe NAME --live` asks it, with --record it writes the replies down"
)
_CRASHES = {"python_runtime", "other_error", "formula_evaluation"}  # a good grader has none of them
_UNDER_WAY = 8
_MAX_CHARS = 400  # of a sample that is shown


async def probe_subjects(subjects: Iterable[Subject], terms: Terms) -> list[Result]:
    """Return the results of probing everything that can be graded, in order."""
    return [
        result for subject in subjects if subject.grader for result in await probe(subject, terms)
    ]


async def probe(
    subject: Subject,
    terms: Terms,
    *,
    above: float | None = None,
    record: dict[str, ProbeLine] | None = None,
) -> list[Result]:
    """Return a result an attempt: failed when it earns more than stated and is not known to.

    Args:
        subject: What is attacked.
        terms: With ``live``, judges are asked; else their replies are recorded, or the attempt is
            skipped.
        above: What an attempt may earn, instead of what ``probes.json`` states.
        record: With ``live``, takes the lines with the judges' replies.
    """
    grader = subject.grader
    if grader is None:
        return [_result(subject, "assembly", "failed", *subject.problems)]
    try:
        examples = list(read_examples(subject.examples_file, grader).values())
        statement = read_statement(subject.folder, grader)
        lines = read_lines(subject.folder, grader)
    except ExamplesError as error:
        return [_result(subject, "files", "failed", *error.problems)]
    if not examples:
        return [_result(subject, "files", "skipped", "NOT PROBED: no examples to start from")]
    if above is None:
        above = _middle(examples) if statement.above is None else statement.above
    made = _made(grader, examples, lines)
    gate = asyncio.Semaphore(_UNDER_WAY)
    assumed = ProbeLine(
        attempt="",
        judge=statement.judge,
        endpoint=statement.endpoint,
        embedding=statement.embedding,
    )

    async def one(attempt: Attempt) -> Result:
        line = lines.get(attempt.name, assumed)
        async with gate:
            started = time.perf_counter()
            grade, replied = await _graded(grader, attempt, line, terms)
            seconds = time.perf_counter() - started
        if record is not None and replied.judge:
            record[attempt.name] = msgspec.structs.replace(
                line, attempt=attempt.name, judge=replied.judge
            )
        weakness = statement.known.get(attempt.name)
        most = above if attempt.honest is None else attempt.honest
        result = _verdict(subject, attempt, grade, weakness, most, is_live=terms.live)
        return msgspec.structs.replace(result, seconds=seconds)

    results = await asyncio.gather(*(one(attempt) for attempt in made.values()))
    if not terms.live and (statement.judge or statement.endpoint):
        unrecorded = len(set(made).difference(lines))
        line = f"{unrecorded} attempts were graded with the replies that {PROBES} assumes"
        results.append(_result(subject, "assumed replies", "noted", line))
    for name in sorted(set(statement.known).difference(made)):
        problem = f"{PROBES} speaks of this attempt, and it is never made"
        results.append(_result(subject, name, "failed", problem))
    return results


def _made(
    grader: CompiledGrader, examples: list[Example], lines: dict[str, ProbeLine]
) -> dict[str, Attempt]:
    """Return our attempts and the author's own, by name."""
    target = target_of(grader, examples)
    made = {attempt.name: attempt for attempt in attempts(target)}
    for name, line in lines.items():
        if line.sample is not None or line.model_sample is not None:
            sample = line.sample or {"output_text": line.model_sample}
            item = target.item if line.item is None else line.item
            made[name] = Attempt(name=name, item=item, sample=sample)
    return made


async def _graded(
    grader: CompiledGrader, attempt: Attempt, recorded: Recorded, terms: Terms
) -> tuple[Grade, Recorded]:
    """Return the grade, and with ``live`` what the judges replied."""
    sample = Sample.from_object(attempt.sample)
    ports = terms.ports
    if not terms.live:
        ports = recorded_ports(grader, attempt.item, sample, recorded, ports)
        return await grader.grade(attempt.item, sample, ports), Recorded()
    recorder = JudgeRecorder(ports.judge)
    ports = msgspec.structs.replace(ports, judge=recorder)
    grade = await grader.grade(attempt.item, sample, ports)
    return grade, recorder.recorded(grader.requests(attempt.item, sample))


def _verdict(  # noqa: PLR0913 - everything that decides
    subject: Subject,
    attempt: Attempt,
    grade: Grade,
    weakness: Weakness | None,
    above: float,
    *,
    is_live: bool,
) -> Result:
    name = attempt.name
    codes = {failure.code for failure in grade.failures}
    is_unknown = any(failure.kind == NOT_RECORDED for failure in grade.failures)
    if is_unknown and "python_runtime" not in codes:  # code that raises needs no judge to fail
        return _result(subject, name, "skipped", NOT_ASKED)
    outside = grade.upstream_failure is not None
    is_harmless = grade.reward <= above + TOLERANCE and not codes & _CRASHES and not outside
    if is_harmless and weakness is None:
        return _result(subject, name, "passed")
    earned = f"earns {grade.reward!r}; at most {above!r} is fine"
    if weakness is None:
        return _result(subject, name, "failed", earned, *_shown(attempt, grade))
    known = f"known: {weakness.reason}"
    stated = {weakness.failure} if weakness.failure else set()
    is_as_stated = abs(weakness.reward - grade.reward) <= TOLERANCE and stated <= codes
    if is_live or (is_as_stated and not outside):
        return _result(subject, name, "noted", earned, known)
    pinned = f"{PROBES} states a reward of {weakness.reward!r}, failure {weakness.failure}"
    return _result(subject, name, "failed", earned, pinned, *_shown(attempt, grade))


def _shown(attempt: Attempt, grade: Grade) -> list[str]:
    sample = msgspec.json.encode(attempt.sample).decode()
    failures = [
        f"failure   {failure.code}: {shortened(failure.message, _MAX_CHARS)}"
        for failure in grade.failures
    ]
    parts = [f"part '{part}' gave {reward!r}" for part, reward in grade.sub_rewards.items()]
    return [f"sample    {shortened(sample, _MAX_CHARS)}", *failures, *parts]


def _middle(examples: Iterable[Example]) -> float:
    rewards = [example.reward for example in examples if example.failure is None]
    return (min(rewards) + max(rewards)) / 2 if rewards else 0.0


def _result(subject: Subject, name: str, status: Status, *lines: str) -> Result:
    return Result(grader=subject.title, kind="probe", name=name, status=status, lines=lines)
