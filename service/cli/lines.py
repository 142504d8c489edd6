"""One line of scores: what a row got, or why it got nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeAlias

import msgspec

from graders.grade import TokenUsage
from service.cli.rows import Row
from service.wire import DrawResult, RowError

INVALID_ROW = "invalid_row"  # the code of a row that cannot be read


class Line(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The score of one row; read together with `RowResult`, whose fields it has.

    Attributes:
        row: Zero-based position in the data; blank lines are not counted.
        spread: Sample standard deviation of an ensemble's rewards.
        draws: The draws of an ensemble.
        signature: How this reward was made, judges included.
        run: Identifies grader, data and options, so that a second run knows whose scores these are.
    """

    row: int
    reward: float
    ok: bool
    passed: bool
    error: RowError | None = None
    sub_rewards: dict[str, float] | None = None
    usage: dict[str, TokenUsage] | None = None
    diagnostics: dict[str, Any] | None = None
    spread: float | None = None
    draws: list[DrawResult] | None = None
    signature: str
    run: str = ""

    @property
    def is_open(self) -> bool:
        """Whether something outside failed, so that nobody has judged this row yet."""
        return self.error is not None and (self.error.retryable or self.error.upstream)


Emit: TypeAlias = Callable[[list[Line]], None]


class Scorer(Protocol):
    """Scores rows, here or elsewhere.

    Attributes:
        signature: How rewards are made, without the judges that answer.
        paid_usd: What judges have cost, further rounds included; None when none was asked. Lines
            hold no cost, so that a replay gives the same file.
    """

    signature: str
    paid_usd: float | None

    async def score(self, rows: Iterator[Row], emit: Emit) -> None:
        """Emit a line for every row, in any order.

        Raises:
            CommandError: No row of this run can be scored.
        """
        ...


def failed(row: int, code: str, message: str, signature: str) -> Line:
    """Return the line of a row that was not graded."""
    error = RowError(code=code, message=message)
    return Line(row=row, reward=0.0, ok=False, passed=False, error=error, signature=signature)


def total(paid_usd: float | None, cost_usd: float | None) -> float | None:
    """Return the sum of what is known."""
    return paid_usd if cost_usd is None else (paid_usd or 0.0) + cost_usd
