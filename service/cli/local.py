"""Scores rows in this process, with the same engine that the service runs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator

from graders.asking import NOT_AVAILABLE
from graders.engine import CompiledGrader
from graders.grade import Failure, Grade
from graders.ports import Ports
from service.cli.failures import CommandError
from service.cli.lines import Emit, Line, total
from service.cli.rows import Row
from service.judge import JudgeContext, Sampling, draw, judging
from service.judging import cost_of, ensemble_result
from service.wire import EnsembleResult, RowError

_HOPELESS = {NOT_AVAILABLE, "isolation_unavailable"}  # kinds of failure that every row meets
_BLOCK_ROWS = 512
_BLOCK_S = 0.05  # how long a signal may wait


class LocalScorer:
    """Grades with one compiled definition."""

    def __init__(  # noqa: PLR0913 - collaborators are parameters
        self,
        grader: CompiledGrader,
        signature: str,
        ports: Ports,
        *,
        terms: JudgeContext,
        sampling: Sampling | None,
        debug: bool,
        concurrency: int,
    ) -> None:
        """Keep ``concurrency`` rows under way where something outside is asked."""
        self.signature = signature
        self.paid_usd: float | None = None
        self._terms = terms
        self._sampling = sampling
        self._grader = grader
        self._ports = ports
        self._debug = debug
        self._concurrency = concurrency

    async def score(self, rows: Iterator[Row], emit: Emit) -> None:
        """Emit a line for every row; in order when the definition is pure."""
        if not self._grader.is_pure:
            await together(self._concurrency, lambda: self._asked(rows, emit))
            return
        while lines := self._block(rows):
            emit(lines)
            await asyncio.sleep(0)

    def _block(self, rows: Iterator[Row]) -> list[Line]:
        """Grade rows for a moment."""
        grade_now, end = self._grader.grade_now, time.perf_counter() + _BLOCK_S
        lines: list[Line] = []
        for row in rows:
            lines.append(self._line(row.index, grade_now(row.item, row.sample)))
            if len(lines) == _BLOCK_ROWS or time.perf_counter() > end:
                break
        return lines

    async def _asked(self, rows: Iterator[Row], emit: Emit) -> None:
        with judging(self._terms):
            for row in rows:
                grade, ensemble = await self._graded(row)
                self.paid_usd = total(self.paid_usd, cost_of(grade))
                for failure in grade.failures:
                    if failure.kind in _HOPELESS:
                        message = f"this grader cannot run in this process: {failure.message}"
                        raise CommandError(message)
                emit([self._line(row.index, grade, ensemble)])

    async def _graded(self, row: Row) -> tuple[Grade, EnsembleResult | None]:
        def once() -> Awaitable[Grade]:
            return self._grader.grade(row.item, row.sample, self._ports)

        if self._sampling is None:
            return await once(), None
        drawn = await draw(once, self._sampling, self._terms)
        return drawn.grade, ensemble_result(drawn, self._sampling, _error)

    def _line(self, row: int, grade: Grade, ensemble: EnsembleResult | None = None) -> Line:
        return Line(
            row=row,
            reward=grade.own_reward,
            ok=grade.ok,
            passed=grade.ok and grade.reward >= self._grader.threshold,
            error=_error(grade.failures),
            sub_rewards=grade.sub_rewards or None,
            usage=grade.usage or None,
            diagnostics=grade.diagnostics or None if self._debug else None,
            spread=ensemble.spread if ensemble else None,
            draws=ensemble.draws if ensemble else None,
            signature=grade.signature(self.signature) if grade.judgements else self.signature,
        )


def _error(failures: tuple[Failure, ...]) -> RowError | None:
    """Return the failure to show, as the service does: something outside before anything else."""
    if not failures:
        return None
    failure = next((failure for failure in failures if failure.upstream), failures[0])
    return RowError(
        code=failure.code,
        message=failure.message,
        flag=failure.flag,
        part=failure.part,
        upstream=failure.upstream,
        retryable=failure.retryable,
        retry_after_s=failure.retry_after_s,
    )


async def together(number: int, work: Callable[[], Awaitable[None]]) -> None:
    """Run ``work`` so many times at once.

    Raises:
        CommandError: One of them did.
    """

    async def one() -> None:
        await work()

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(number):
                group.create_task(one())
    except* CommandError as errors:
        raise first(errors) from None


def first(errors: BaseExceptionGroup[CommandError]) -> CommandError:
    """Return one of ``errors``."""
    error = errors.exceptions[0]
    return first(error) if isinstance(error, BaseExceptionGroup) else error
