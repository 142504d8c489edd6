"""Probes a grader: grades every attack, and compares with the weaknesses its author admits.

A weakness that grows, or that is gone, fails as much as an unknown one: what is stated stays true.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Iterator

import msgspec

from graders.engine import CompiledGrader
from graders.grade import Grade
from graders.sample import Sample
from service.workshop.attacks import Attempt, attempts, target_of
from service.workshop.check import TOLERANCE, Terms
from service.workshop.examples import Example, ExamplesError, read_examples
from service.workshop.explain import shortened
from service.workshop.library import Subject
from service.workshop.probe_files import PROBES, ProbeLine, Statement, read_lines, read_statement
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
    """Return the results of probing the last version of each grader, in order.

    Weaknesses are stated of that one; what it repairs stays in earlier ones for good.
    """
    latest = {subject.name: subject for subject in subjects if subject.grader}
    return [result for subject in latest.values() for result in await probe(subject, terms)]


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
        file, version = subject.examples_file, subject.version
        examples = list(read_examples(file, grader, version).values())
        statement = read_statement(subject.folder, grader)
        lines = read_lines(subject.folder, grader)
    except ExamplesError as error:
        return [_result(subject, "files", "failed", *error.problems)]
    if not examples:
        return [_result(subject, "files", "skipped", "NOT PROBED: no examples to start from")]
    if above is not None:
        statement = msgspec.structs.replace(statement, above=above)
    elif statement.above is None:
        statement = msgspec.structs.replace(statement, above=_middle(examples))
    prober = _Prober(subject, terms, statement, lines, {} if record is None else record)
    made = _made(grader, examples, lines)
    results = await asyncio.gather(*(prober.result(attempt) for attempt in made.values()))
    return [*results, *prober.about_statement(made)]


class _Prober:
    """Grades attempts on one grader and judges what they earn."""

    def __init__(
        self,
        subject: Subject,
        terms: Terms,
        statement: Statement,
        lines: dict[str, ProbeLine],
        record: dict[str, ProbeLine],
    ) -> None:
        assert subject.grader is not None  # noqa: S101 - the caller has looked
        self._subject = subject
        self._grader: CompiledGrader = subject.grader
        self._terms = terms
        self._statement = statement
        self._lines = lines
        self._record = record
        self._gate = asyncio.Semaphore(_UNDER_WAY)
        self._assumed = ProbeLine(
            attempt="",
            judge=statement.judge,
            endpoint=statement.endpoint,
            embedding=statement.embedding,
        )

    async def result(self, attempt: Attempt) -> Result:
        """Return what an attempt comes to."""
        async with self._gate:
            started = time.perf_counter()
            grade = await self._grade(attempt)
            seconds = time.perf_counter() - started
        return msgspec.structs.replace(self._verdict(attempt, grade), seconds=seconds)

    def about_statement(self, made: dict[str, Attempt]) -> Iterator[Result]:
        """Yield what is to be said about ``probes.json`` itself."""
        if not self._terms.live and (self._statement.judge or self._statement.endpoint):
            number = len(set(made).difference(self._lines))
            line = f"{number} attempts were graded with the replies that {PROBES} assumes"
            yield _result(self._subject, "assumed replies", "noted", line)
        for name in sorted(set(self._statement.known).difference(made)):
            problem = f"{PROBES} speaks of this attempt, and it is never made"
            yield _result(self._subject, name, "failed", problem)

    async def _grade(self, attempt: Attempt) -> Grade:
        grader, item, ports = self._grader, attempt.item, self._terms.ports
        sample = Sample.from_object(attempt.sample)
        line = self._lines.get(attempt.name, self._assumed)
        if not self._terms.live:
            ports = recorded_ports(grader, item, sample, line, ports)
            return await grader.grade(item, sample, ports)
        recorder = JudgeRecorder(ports.judge)
        ports = msgspec.structs.replace(ports, judge=recorder)
        grade = await grader.grade(item, sample, ports)
        replies = recorder.recorded(grader.requests(item, sample)).judge
        if replies:
            name = attempt.name
            self._record[name] = msgspec.structs.replace(line, attempt=name, judge=replies)
        return grade

    def _verdict(self, attempt: Attempt, grade: Grade) -> Result:
        subject, name = self._subject, attempt.name
        codes = {failure.code for failure in grade.failures}
        outside = {failure.kind for failure in grade.failures if failure.upstream}
        if NOT_RECORDED in outside and "python_runtime" not in codes:
            return _result(subject, name, "skipped", NOT_ASKED)  # code that raises needs no judge
        most = self._statement.above if attempt.honest is None else attempt.honest
        assert most is not None  # noqa: S101 - `probe` has filled it in
        weakness = self._statement.known.get(name)
        is_harmless = grade.reward <= most + TOLERANCE and not codes & _CRASHES and not outside
        if is_harmless and weakness is None:
            return _result(subject, name, "passed")
        earned = f"earns {grade.reward!r}; at most {most!r} is fine"
        if weakness is None:
            return _result(subject, name, "failed", earned, *_shown(attempt, grade))
        stated = {weakness.failure} if weakness.failure else set()
        is_as_stated = abs(weakness.reward - grade.reward) <= TOLERANCE and stated <= codes
        if self._terms.live or (is_as_stated and outside <= {NOT_RECORDED}):
            return _result(subject, name, "noted", earned, f"known: {weakness.reason}")
        pinned = f"{PROBES} states a reward of {weakness.reward!r}, failure {weakness.failure}"
        return _result(subject, name, "failed", earned, pinned, *_shown(attempt, grade))


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
