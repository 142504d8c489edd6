"""What goes to a grader and what comes back: rows, results and their JSON.

Training columns hold more than JSON: NumPy scalars, NaN for missing values, dates, images. What has
an obvious JSON value gets it (NaN and infinity become null); what has none is left out, or refused
where it was asked for by name.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from service.trainers.errors import RefusedError

# Codes that mean that nobody graded; tests compare them with `graders.errors`.
OUTAGE_CODES = frozenset(
    {
        "budget_exceeded",
        "embedder_unavailable",
        "endpoint_unavailable",
        "judge_unavailable",
        "missing_recording",
        "overloaded",
        "sandbox_unavailable",
        "upstream",
    }
)
_LARGEST = sys.float_info.max
_NO_JSON = (TypeError, ValueError, RecursionError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One model output to grade.

    Attributes:
        item: What templates read as ``item.…``.
        fields: ``{"model_sample": text}`` or ``{"sample": {…}}``, from `messages.sample_fields`.
    """

    item: Mapping[str, Any]
    fields: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why a row has no reward.

    Attributes:
        code: Stable machine-readable name.
        message: One sentence.
        outage: Nobody graded; otherwise the grader could not grade this sample.
        retryable: Whether asking again later could help.
        retry_after_s: Seconds to wait before that, when known.
    """

    code: str
    message: str
    outage: bool
    retryable: bool = False
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What grading one row gave.

    Attributes:
        reward: A finite number; None exactly when there is a ``failure``.
        passed: The reward reaches the grader's pass threshold.
        sub_rewards: By key of a ``multi``, parts that failed as 0.0; empty for other types.
        failure: Why there is no reward.
    """

    reward: float | None
    passed: bool = False
    sub_rewards: Mapping[str, float] = field(default_factory=dict)
    failure: Failure | None = None


def failed(code: str, message: str, *, retryable: bool = False) -> Result:
    """Return the result of a row that nobody graded."""
    failure = Failure(code=code, message=message, outage=True, retryable=retryable)
    return Result(reward=None, failure=failure)


def encode_row(row: Row, *, named: frozenset[str] = frozenset()) -> bytes:
    """Return ``row`` as one JSON object in UTF-8.

    Args:
        row: The row.
        named: Keys of the item that were asked for, so that none of them may be left out.

    Raises:
        RefusedError: A value that has no JSON was asked for, or stands in the sample.
    """
    try:
        return _encode({"item": row.item, **row.fields})
    except _NO_JSON:
        item = {key: value for key, value in row.item.items() if _is_json(key, value, named)}
    try:
        return _encode({"item": item, **row.fields})
    except _NO_JSON as error:
        raise RefusedError(f"the sample is no JSON: {error}", "invalid_row") from error


def _is_json(key: object, value: object, named: frozenset[str]) -> bool:
    try:
        _encode({key: value})
    except _NO_JSON as error:
        if key in named:
            message = f"the item field {key!r} is no JSON: {error}"
            raise RefusedError(message, "invalid_row") from error
        return False
    return True


def _encode(value: Mapping[Any, Any]) -> bytes:
    try:
        text = json.dumps(value, allow_nan=False, ensure_ascii=False, default=plain)
    except ValueError:  # NaN or infinity: JSON has neither
        loose = json.dumps(value, default=plain)
        finite = json.loads(loose, parse_constant=lambda _: None)
        text = json.dumps(finite, ensure_ascii=False)
    return text.encode("utf-8", "replace")  # half a surrogate pair is no text in any encoding


def plain(value: object) -> object:
    """Return the JSON value of what `json` does not know."""
    if hasattr(value, "tolist"):  # NumPy scalars and arrays, tensors
        return value.tolist()
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray | memoryview):
        return list(value)
    if isinstance(value, date):  # and datetime
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} has no JSON form")


def decode_results(body: bytes, rows: int) -> list[Result]:
    """Return the results in the answer of ``…/score/batch``.

    Raises:
        ValueError: The body is no such answer for ``rows`` rows, or holds a number that is none.
    """
    try:
        answer = json.loads(body, parse_constant=_no_constant)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    results = answer.get("results") if isinstance(answer, dict) else None
    if not isinstance(results, list) or len(results) != rows:
        raise ValueError(f"expected {rows} results")
    return [_result(result) for result in results]


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _result(result: object) -> Result:
    if not isinstance(result, dict):
        raise ValueError("a result is no object")  # noqa: TRY004 - one exception for bad answers
    parts = result.get("sub_rewards")
    sub_rewards = {k: finite(v) for k, v in parts.items()} if isinstance(parts, dict) else {}
    if result.get("ok") is True:
        return Result(
            reward=finite(result.get("reward")),
            passed=result.get("passed") is True,
            sub_rewards=sub_rewards,
        )
    error = result.get("error")
    if result.get("ok") is not False or not isinstance(error, dict):
        raise ValueError("a result has neither a reward nor an error")
    code = str(error.get("code"))
    retry_after = error.get("retry_after_s")
    failure = Failure(
        code=code,
        message=str(error.get("message")),
        outage=code in OUTAGE_CODES,
        retryable=error.get("retryable") is True,
        retry_after_s=None if retry_after is None else finite(retry_after),
    )
    return Result(reward=None, sub_rewards=sub_rewards, failure=failure)


def finite(value: object) -> float:
    """Return ``value`` as a finite float.

    Raises:
        ValueError: It is anything else.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("a reward is no number")  # noqa: TRY004 - one exception for bad answers
    if not -_LARGEST <= value <= _LARGEST:  # false for NaN too
        raise ValueError("a reward is not finite")
    return float(value)
