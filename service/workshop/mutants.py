"""Checks the examples: does any of them notice when the definition gets a small fault?"""

from __future__ import annotations

import asyncio
import time

import msgspec

from graders.building import Options
from graders.engine import compile_grader
from graders.errors import DefinitionError
from graders.ports import Sandbox, SandboxResult, SandboxRun
from service.workshop.check import TOLERANCE, Terms, differences, grade_example
from service.workshop.examples import Example, ExamplesError, read_examples
from service.workshop.library import Subject
from service.workshop.mutations import Mutation, mutations
from service.workshop.results import Result

SHARE = 0.9  # of the mutants, at least, must be caught
SAMPLED = 60  # mutants a definition, evenly from all there are
_UNDER_WAY = 4


class Caught(msgspec.Struct, frozen=True, kw_only=True):
    """How many mutants the examples of a definition notice.

    Attributes:
        tried: Mutants that compile.
        survivors: What was changed in those that nobody noticed.
    """

    tried: int
    survivors: tuple[str, ...]

    @property
    def share(self) -> float:
        """Caught mutants over all; 1.0 without any."""
        return 1.0 - len(self.survivors) / self.tried if self.tried else 1.0


class _RememberingSandbox:
    """Runs the same source on the same payload once."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._results: dict[tuple[str, bytes], SandboxResult] = {}

    async def run(self, run: SandboxRun) -> SandboxResult:
        key = (run.source, run.payload)
        if key not in self._results:
            self._results[key] = await self._sandbox.run(run)
        return self._results[key]


async def catch_mutants(
    subject: Subject, options: Options, terms: Terms, *, sampled: int = SAMPLED
) -> Caught:
    """Return which mutants of ``subject`` its examples notice.

    Raises:
        ExamplesError: The examples cannot be read.
    """
    assert subject.grader is not None  # noqa: S101 - the caller has looked
    file, version = subject.examples_file, subject.version
    examples = list(read_examples(file, subject.grader, version).values())
    ports = terms.ports
    if ports.sandbox is not None:
        ports = msgspec.structs.replace(ports, sandbox=_RememberingSandbox(ports.sandbox))
    terms = Terms(ports=ports)
    every = list(mutations(subject.grader.document))
    number = min(sampled, len(every))
    chosen = [every[index * len(every) // number] for index in range(number)]
    gate = asyncio.Semaphore(_UNDER_WAY)

    async def survives(mutation: Mutation) -> bool | None:
        mutant = _compiled(subject, mutation, options)
        if mutant is None:
            return None
        async with gate:
            return not await _is_noticed(mutant, examples, terms)

    outcomes = await asyncio.gather(*(survives(mutation) for mutation in chosen))
    pairs = zip(chosen, outcomes, strict=True)
    return Caught(
        tried=sum(outcome is not None for outcome in outcomes),
        survivors=tuple(mutation.change for mutation, survived in pairs if survived),
    )


async def check_mutants(subject: Subject, options: Options, terms: Terms) -> Result:
    """Return whether enough mutants are caught, and those that are not."""
    started = time.perf_counter()
    try:
        caught = await catch_mutants(subject, options, terms)
    except ExamplesError as error:
        return Result(
            grader=subject.title,
            kind="mutants",
            name="examples",
            status="failed",
            lines=error.problems,
        )
    number = caught.tried - len(caught.survivors)
    is_enough = caught.share >= SHARE
    return Result(
        grader=subject.title,
        kind="mutants",
        name=f"{number} of {caught.tried} caught",
        status="failed" if not is_enough else "noted" if caught.survivors else "passed",
        lines=tuple(f"not noticed: {change}" for change in caught.survivors),
        seconds=time.perf_counter() - started,
    )


def _compiled(subject: Subject, mutation: Mutation, options: Options) -> Subject | None:
    try:
        grader = compile_grader(mutation.document, options, purpose="store")
    except DefinitionError:
        return None
    return msgspec.structs.replace(subject, document=mutation.document, grader=grader)


async def _is_noticed(mutant: Subject, examples: list[Example], terms: Terms) -> bool:
    """Say whether an example fails; it goes to the front, since the next fault is often near."""
    for example in list(examples):
        try:
            grade, _ = await grade_example(mutant, example, terms)
        except ExamplesError:
            return True
        if differences(example, grade, TOLERANCE):
            examples.remove(example)
            examples.insert(0, example)
            return True
    return False
