"""What all dialects share about failures.

When results are no answer but an HTTP error, and how much of a failure's message leaves.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import msgspec

from graders.errors import BudgetExceededError, OverloadedError
from service.dialects.contract import Dialect, Options
from service.wire import RowError, RowResult

Status: TypeAlias = Literal[422, 429, 501, 503]

_TRACEBACK = "Traceback (most recent call last):"
_TOO_MANY = frozenset({OverloadedError.code, BudgetExceededError.code})


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """Why there is no answer.

    Attributes:
        status: 422 the grader cannot grade, 429 later, 501 never in this process, 503 again.
        errors: Row → what failed in it; for other statuses than 422 only the row that decided.
    """

    status: Status
    errors: dict[int, RowError]


def refusal(dialect: Dialect, options: Options, results: Sequence[RowResult]) -> Refusal | None:
    """Return why ``results`` are no answer; None when they are one.

    Something outside that failed comes first: trying again may help all rows, and a grader that
    cannot grade will say so again.
    """
    errors = {index: result.error for index, result in enumerate(results) if result.error}
    if not errors:
        return None
    if options.on_infrastructure_failure == "error":
        for index, error in errors.items():
            if error.upstream:
                return Refusal(status=_status(error, dialect), errors={index: error})
    if options.on_grader_failure == "error":
        own = {index: error for index, error in errors.items() if not error.upstream}
        if own:
            return Refusal(status=422, errors=own)
    return None


def without_tracebacks(results: Sequence[RowResult]) -> list[RowResult]:
    """Return ``results`` with the exception alone in the place of a traceback of user code.

    Trainers log what they get and pass it on; source lines are for the native routes, whose callers
    ask for one grade and read why it failed.
    """
    return [
        result
        if result.error is None
        else msgspec.structs.replace(
            result,
            error=msgspec.structs.replace(
                result.error, message=_exception_line(result.error.message)
            ),
        )
        for result in results
    ]


def _exception_line(message: str) -> str:
    """Return the line behind the frames; one line, because what it goes on with is the user's."""
    lines = [line for line in message.splitlines() if not line.startswith((" ", _TRACEBACK))]
    return lines[0] if lines else ""


def _status(error: RowError, dialect: Dialect) -> Status:
    if error.code in _TOO_MANY:
        return 429
    return dialect.upstream_status if error.retryable else 501
