"""Grades rows for the routes: one, a batch, or a stream, without holding up the event loop.

Pure definitions are graded in blocks whose size follows the time they take, so that other requests
are answered in between; definitions that ask something outside keep a bounded number of rows under
way.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from array import array
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import msgspec

from graders.asking import NOT_AVAILABLE
from graders.errors import BudgetExceededError, Finding, OverloadedError, UpstreamError
from graders.errors import RowError as UnreadableRowError
from graders.grade import Failure, Grade, TokenUsage
from graders.ports import Ports
from graders.registry import Definition
from graders.sample import Sample
from service.counting import GradeCounter
from service.judge import JudgeContext, MissingRecordingError, judging
from service.judging import cost_of
from service.lean import ClientGoneError
from service.problems import InvalidRowsError, NotAvailableError
from service.wire import RowError, RowResult, ScoreRequest, Summary

# Kinds of failure that no retry can mend: this process lacks what the grader needs.
_NOT_HERE = {NOT_AVAILABLE, "no_route", "isolation_unavailable"}
_BLOCK_S = 0.004  # how long grading may keep the event loop
_MAX_BLOCK_ROWS = 512
_MAX_KNOWN_ROWS = 64  # rows that differ in nothing but the reward are made once for each reward

_OWN_ANSWERS: dict[str, type[UpstreamError]] = {
    kind.code: kind for kind in (BudgetExceededError, MissingRecordingError, OverloadedError)
}
_SUM_SCALE = 2.0**-64  # exact, and keeps the sum of the largest rewards finite

T = TypeVar("T")
Row = tuple[dict[str, Any], Sample]


def sample_of(row: ScoreRequest) -> Sample:
    """Return the sample of one row.

    Raises:
        RowError: Not exactly one of ``model_sample`` and ``sample``, or a malformed sample.
    """
    if row.sample is not None:
        if row.model_sample is not None:
            raise UnreadableRowError("give either model_sample or sample, not both")
        return Sample.from_answer(row.sample)
    if row.model_sample is None:
        raise UnreadableRowError("model_sample (a string) or sample (an object) is missing")
    return Sample(row.model_sample)


def read_rows(rows: Sequence[ScoreRequest]) -> list[Row]:
    """Return item and sample of every row.

    Raises:
        InvalidRowsError: With every row that cannot be read.
    """
    read: list[Row] = []
    findings: list[Finding] = []
    for index, row in enumerate(rows):
        try:
            read.append((row.item, sample_of(row)))
        except UnreadableRowError as error:
            pointer = f"/rows/{index}"
            findings.append(Finding(pointer=pointer, message=str(error), code="invalid_row"))
    if findings:
        raise InvalidRowsError(findings)
    return read


def raise_upstream(grade: Grade) -> None:
    """Raise what a single call answers when something outside failed, so that nobody takes its 0.0.

    Raises:
        NotAvailableError, BudgetExceededError, MissingRecordingError, OverloadedError,
        UpstreamError: As the failure says.
    """
    failure = grade.upstream_failure
    if failure is None:
        return
    if failure.kind in _NOT_HERE:
        raise NotAvailableError(failure.message)
    kind = _OWN_ANSWERS.get(failure.code, UpstreamError)
    raise kind(failure.message, retryable=failure.retryable, retry_after_s=failure.retry_after_s)


class RowGrader:
    """Grades rows of one definition and counts what came out.

    Attributes:
        is_pure: Whether rows are graded without asking anything outside.
        rows, ok, passed: Counted so far.
    """

    def __init__(  # noqa: PLR0913 - collaborators are parameters
        self,
        definition: Definition,
        ports: Ports,
        counter: GradeCounter,
        *,
        terms: JudgeContext,
        debug: bool = False,
        concurrency: int = 64,
    ) -> None:
        """Grade with ``definition`` on ``terms``; ``debug`` adds what the ports reported."""
        self._terms = terms
        self._definition = definition
        self._grader = definition.grader
        self.is_pure = definition.grader.is_pure
        self._threshold = definition.grader.threshold
        self._ports = ports
        self._counter = counter
        self._debug = debug
        self._concurrency = concurrency
        self._observe = counter.rewards.append
        self._known: dict[float, RowResult] = {}
        self._block = 1  # rows to grade before the next look at the clock
        self._sum = 0.0
        self._rewards = array(
            "d"
        )  # of rows that end in any order, whose mean must not depend on it
        self._due = 0
        self.rows = 0
        self.ok = 0
        self.passed = 0

    def summary(self) -> Summary:
        """Return the counts of everything graded so far."""
        total = self._sum if self.is_pure else math.fsum(self._rewards)
        return Summary(
            rows=self.rows,
            ok=self.ok,
            failed=self.rows - self.ok,
            passed=self.passed,
            mean_reward=total / self.ok / _SUM_SCALE if self.ok else None,
        )

    async def batch(self, rows: Sequence[Row]) -> list[RowResult]:
        """Return one result a row, in order."""
        with self.awaited(len(rows)):
            if not self.is_pure:
                asked: list[Any] = [None] * len(rows)
                await self.each(in_turn(enumerate(rows)), asked.__setitem__)
                return asked
            results: list[RowResult] = []
            while len(results) < len(rows):
                results += self.turn(rows[len(results) :])
                await asyncio.sleep(0)
            return results

    @contextlib.contextmanager
    def awaited(self, number: int) -> Iterator[None]:
        """Show the next ``number`` rows as pending until each has its grade, or the block ends."""
        self._due = self.rows + number
        self._counter.batches.add(self)
        try:
            yield
        finally:
            self._counter.batches.discard(self)

    @property
    def pending(self) -> int:
        """Rows of the batch being graded that still wait for their grade."""
        return self._due - self.rows

    def turn(self, rows: Sequence[Row]) -> list[RowResult]:
        """Return the results of the first of ``rows``: what one turn of the event loop may take.

        All of a small batch, so that it is graded while it is in the processor's cache; nothing
        unless the definition is pure.
        """
        results: list[RowResult] = []
        ends = began = time.perf_counter()
        while self.is_pure and len(results) < len(rows) and ends - began < _BLOCK_S:
            block = rows[len(results) : len(results) + self._block]
            results += self.now(block)
            started, ends = ends, time.perf_counter()
            self._block = next_block(self._block, ends - started)
        return results

    def now(self, rows: Iterable[Row]) -> list[RowResult]:
        """Return the results of ``rows`` by a pure definition, at once."""
        grade_now = self._grader.grade_now
        started = time.perf_counter()
        results = [self.result(grade_now(item, sample)) for item, sample in rows]
        self._counter.took(time.perf_counter() - started, len(results))
        return results

    async def each(
        self, rows: AsyncIterator[tuple[int, Row]], emit: Callable[[int, RowResult], None]
    ) -> None:
        """Emit (index, result) of every row as it completes, with a bounded number under way."""
        queue: asyncio.Queue[tuple[int, Row] | None] = asyncio.Queue(1)

        async def work() -> None:
            while (entry := await queue.get()) is not None:
                index, (item, sample) = entry
                emit(index, await self.asked(item, sample))

        async with asyncio.TaskGroup() as group:
            workers = 0
            async for entry in rows:
                if workers < self._concurrency:
                    with judging(self._terms):  # the task keeps these terms
                        group.create_task(work())
                    workers += 1
                await queue.put(entry)
            for _ in range(workers):
                await queue.put(None)

    async def asked(self, item: dict[str, Any], sample: Sample) -> RowResult:
        """Return the result of one row by a definition that asks something outside."""
        return self.result(await self._grader.grade(item, sample, self._ports))

    def result(self, grade: Grade) -> RowResult:
        """Return the row of ``grade`` and count it."""
        self.rows += 1
        reward = grade.reward
        if grade.failures:
            self._counter.graded(grade)
            return self._row(grade)
        self.ok += 1
        self._observe(reward)
        if self.is_pure:
            self._sum += reward * _SUM_SCALE
        else:
            self._rewards.append(reward * _SUM_SCALE)
        plain = not (grade.sub_rewards or grade.judgements or grade.diagnostics)
        row = self._known.get(reward) if plain else None
        if row is None:
            row = self._row(grade)
            if plain and len(self._known) < _MAX_KNOWN_ROWS:
                self._known[reward] = row
        if row.passed:
            self.passed += 1
        return row

    def _row(self, grade: Grade) -> RowResult:
        return RowResult(
            reward=grade.own_reward,
            ok=grade.ok,
            passed=grade.ok and grade.reward >= self._threshold,
            error=error_of(grade.failures),
            sub_rewards=grade.sub_rewards or None,
            judgements=grade.judgements,
            usage=grade.usage or None,
            cost_usd=cost_of(grade),
            diagnostics=grade.diagnostics or None if self._debug else None,
        )

    def unreadable(self, message: str, index: int) -> RowResult:
        """Return the row of a line that no grader can read, and count it."""
        self.rows += 1
        self._counter.unreadable()
        error = RowError(code="invalid_row", message=message)
        return RowResult(reward=0.0, ok=False, passed=False, index=index, error=error)


async def unless_gone(work: Coroutine[Any, Any, T], gone: Coroutine[Any, Any, None]) -> T:
    """Return what ``work`` gives; once the client is ``gone``, cancel it.

    Raises:
        ClientGoneError: The client closed the connection first.
    """
    task, watch = asyncio.ensure_future(work), asyncio.ensure_future(gone)
    try:
        await asyncio.wait((task, watch), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientGoneError
    finally:
        task.cancel()
        watch.cancel()
        await asyncio.gather(task, watch, return_exceptions=True)


async def in_turn(entries: Iterable[T]) -> AsyncIterator[T]:
    """Yield ``entries``, as `RowGrader.each` takes them."""
    for entry in entries:
        yield entry


def next_block(size: int, seconds: float) -> int:
    """Return how many rows to grade next without keeping the event loop much over 4 ms."""
    if seconds > _BLOCK_S:
        return max(1, size // 2)
    return min(_MAX_BLOCK_ROWS, size * 2) if seconds < _BLOCK_S / 3 else size


def error_of(failures: tuple[Failure, ...]) -> RowError | None:
    """Return the failure to show: one of something outside if there is one, else the first."""
    if not failures:
        return None
    failure = next((f for f in failures if f.upstream), failures[0])
    return RowError(
        code=failure.code,
        message=failure.message,
        flag=failure.flag,
        part=failure.part,
        upstream=failure.upstream,
        retryable=failure.retryable,
        retry_after_s=failure.retry_after_s,
    )


def total_usage(usage: dict[str, TokenUsage]) -> TokenUsage | None:
    """Return the sum over all judge models; None when no judge was asked."""
    total: TokenUsage | None = None
    for tokens in usage.values():
        total = tokens if total is None else total + tokens
    return total


def indexed(result: RowResult, index: int) -> RowResult:
    """Return ``result`` with its position in the stream."""
    return msgspec.structs.replace(result, index=index)
