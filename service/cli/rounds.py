"""Drives a scorer over the rows that have no score yet, and again over those worth another try."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from typing import Any

import msgspec
from tqdm import tqdm

from graders.errors import BudgetExceededError
from service.cli.failures import CommandError
from service.cli.journal import Journal
from service.cli.lines import INVALID_ROW, Line, Scorer, failed
from service.cli.output import one_line
from service.cli.rows import DataFile, Row
from service.cli.waiting import announce
from service.wire import RowError

PAUSES_S = (1.0, 4.0, 15.0)  # before each round of retries
_MAX_PAUSE_S = 120.0  # who is told to wait longer fails at once


class InterruptedRunError(CommandError):
    """A signal stopped the run."""

    def __init__(self, number: int) -> None:
        """Exit as a shell reports a command that died of signal ``number``."""
        super().__init__(f"stopped by {signal.Signals(number).name}", code=128 + number)


class Rounds:
    """One run over a data file."""

    def __init__(self, data: DataFile, scorer: Scorer, journal: Journal, run: str) -> None:
        """Write the lines of ``scorer`` to ``journal``, marked with the name of the ``run``."""
        self._data = data
        self._scorer = scorer
        self._journal = journal
        self._run = run
        self._pending = 0
        self._pause = 0.0
        self._why = ""
        self._is_last = False
        self._bar: tqdm[Any] = tqdm(disable=True)

    async def run(self) -> None:
        """Score every row; those that still fail retryably after the last round stay failed.

        Raises:
            CommandError: The data cannot be read, or no row can be scored any more.
            InterruptedRunError: SIGINT or SIGTERM came; everything scored so far is kept.
        """
        loop = asyncio.get_running_loop()
        task = asyncio.create_task(self._rounds())
        received: list[int] = []

        def stop(number: int) -> None:
            received.append(number)
            task.cancel()

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop, number)
        try:
            await task
        except asyncio.CancelledError:
            raise InterruptedRunError(received[0]) from None
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)

    async def _rounds(self) -> None:
        with tqdm(
            total=max(self._data.expected, self._journal.done),
            initial=self._journal.done,
            unit="row",
            unit_scale=True,
            disable=None,  # off unless standard error is a terminal
        ) as self._bar:
            for pause in PAUSES_S:
                self._pending, self._pause = 0, pause
                await self._scorer.score(self._unscored(), self._keep)
                if not self._pending:
                    return
                announce(self._pause, f"{self._pending} rows failed for now, such as: {self._why}")
                await asyncio.sleep(self._pause)
            self._is_last = True
            await self._scorer.score(self._unscored(), self._keep)

    def _unscored(self) -> Iterator[Row]:
        """Yield the rows to score; those that nobody can read are failed right away."""
        for row in self._data.rows(self._journal.__contains__):
            if isinstance(row, Row):
                yield row
            else:
                line = failed(row.index, INVALID_ROW, row.message, self._scorer.signature)
                self._keep([line])

    def _keep(self, lines: list[Line]) -> None:
        """Put ``lines`` into the journal, except rows that another round may still score."""
        final = []
        for line in lines:
            if line.error is None or self._is_last or not _is_worth_a_wait(line.error):
                final.append(line)
                continue
            self._pending += 1
            self._pause = max(self._pause, line.error.retry_after_s or 0.0)
            self._why = f"{line.error.code}: {one_line(line.error.message)}"
        self._journal.add(msgspec.structs.replace(line, run=self._run) for line in final)
        self._bar.update(len(final))


def _is_worth_a_wait(error: RowError) -> bool:
    """Return whether another round of this run may help; a budget comes back the next day."""
    soon = (error.retry_after_s or 0.0) <= _MAX_PAUSE_S
    return error.retryable and soon and error.code != BudgetExceededError.code
