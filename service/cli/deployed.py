"""Runs the examples of definitions on a server, so that its owner can verify a deployment."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence

import msgspec

from graders.asking import Call
from graders.grade import Failure, Grade
from graders.ports import SandboxRun
from service.cli.asking import Asking
from service.cli.failures import UNREACHABLE, CommandError
from service.cli.remote import Server
from service.wire import BatchResponse, RowResult
from service.workshop.check import TOLERANCE, Terms, allowed, differences, name_of, not_live
from service.workshop.examples import Example, ExamplesError, read_examples
from service.workshop.explain import explanation, shortened
from service.workshop.library import Subject
from service.workshop.results import Result, Status

_ROWS = 100  # a batch
_NEEDS_LIVE = "the server would ask its judges; recordings cannot be sent along: use --live"

_batch = msgspec.json.Decoder(BatchResponse)


async def check_deployed(
    subjects: Iterable[Subject], url: str, key: str | None, terms: Terms
) -> list[Result]:
    """Return the results of all examples of released versions on the server at ``url``.

    Raises:
        CommandError: The server cannot be reached.
    """
    results: list[Result] = []
    for subject in subjects:
        if subject.version is None:
            why = ("a draft is not on any server",)
            results.append(_result(subject, "draft", "skipped", why))
            continue
        async with contextlib.aclosing(
            Server(url, subject.title, key=key, asking=Asking())
        ) as server:
            results += await _check(subject, server, terms)
    return results


async def _check(subject: Subject, server: Server, terms: Terms) -> list[Result]:
    assert subject.grader is not None  # noqa: S101 - released versions compile
    try:
        reference = await server.find()
        examples = read_examples(subject.examples_file, subject.grader, subject.version)
    except ExamplesError as error:
        return [_result(subject, subject.examples_file.name, "failed", error.problems)]
    except CommandError as error:
        if error.code == UNREACHABLE:
            raise
        return [_result(subject, "on the server", "failed", error.lines)]
    same = reference.digest == subject.grader.digest
    lines = () if same else (f"here {subject.grader.digest}", f"there {reference.digest}")
    results = [_result(subject, "digest", "passed" if same else "failed", lines)]
    asked: dict[int, Example] = {}
    for number, example in examples.items():
        if why := _skipped(subject, example, terms):
            skipped = Result(
                grader=subject.title,
                kind="example",
                name=name_of(number, example),
                status="skipped",
                lines=(why,),
            )
            results.append(skipped)
        else:
            asked[number] = example
    numbers = list(asked)
    for start in range(0, len(numbers), _ROWS):
        batch = {number: asked[number] for number in numbers[start : start + _ROWS]}
        results += await _send(subject, server, batch, terms, allowed(examples.values(), terms))
    return results


def _skipped(subject: Subject, example: Example, terms: Terms) -> str:
    """Return why an example cannot be run on a server; empty if it can."""
    if not any(map(_is_outside, _requests(subject, example))):
        return ""
    return not_live(example) if terms.live else _NEEDS_LIVE


def _is_outside(call: Call) -> bool:
    return not isinstance(call, SandboxRun)


def _requests(subject: Subject, example: Example) -> Sequence[Call]:
    assert subject.grader is not None  # noqa: S101 - released versions compile
    return list(subject.grader.requests(example.item, example.graded_sample()).values())


async def _send(
    subject: Subject, server: Server, batch: dict[int, Example], terms: Terms, judged: float
) -> list[Result]:
    rows = [msgspec.json.encode(example.as_row()) for example in batch.values()]
    response = await server.batch(rows, debug=True)
    try:
        answer = _batch.decode(response.content)
    except msgspec.DecodeError:
        refusal = f"HTTP {response.status_code}: {shortened(response.text)}"
        return [_result(subject, "on the server", "failed", (refusal,))]
    results = []
    for (number, example), row in zip(batch.items(), answer.results, strict=True):
        is_judged = terms.live and any(map(_is_outside, _requests(subject, example)))
        results.append(_row(subject, number, example, row, judged if is_judged else TOLERANCE))
    return results


def _row(
    subject: Subject, number: int, example: Example, row: RowResult, tolerance: float
) -> Result:
    assert subject.grader is not None  # noqa: S101 - released versions compile
    error = row.error
    failures = (
        (Failure(code=error.code, flag=error.flag or "", message=error.message, part=error.part),)
        if error
        else ()
    )
    grade = Grade(
        reward=row.reward,
        failures=failures,
        sub_rewards=row.sub_rewards or {},
        diagnostics=row.diagnostics or {},
    )
    # A server states no reward where there is a failure; an example has the formula's number there.
    stated = msgspec.structs.replace(example, reward=0.0) if example.failure else example
    problems = differences(stated, grade, tolerance)
    return Result(
        grader=subject.title,
        kind="example",
        name=name_of(number, example),
        status="failed" if problems else "passed",
        lines=explanation(subject.grader, example, grade, problems) if problems else (),
    )


def _result(subject: Subject, name: str, status: Status, lines: tuple[str, ...]) -> Result:
    return Result(grader=subject.title, kind="files", name=name, status=status, lines=lines)
