"""eval-protocol (Fireworks): ``/evaluate`` (wire-protocols B.2, 13).

Further arguments come flat, from the remote client, or under ``kwargs``, for the generic server.
"""

from __future__ import annotations

from typing import Any

import msgspec

from graders.errors import RowError
from graders.sample import JsonValue
from service.dialects import contract
from service.dialects.contract import Dialect, Graded, Options, Reading
from service.dialects.conversation import prompt_text, sample_of, sample_of_messages, split
from service.dialects.mapping import at, fill


class Metric(msgspec.Struct, frozen=True, kw_only=True):
    """One part of the score; ``success`` is what the remote client reads."""

    score: float
    is_score_valid: bool
    success: bool
    reason: str


class EvaluateResult(msgspec.Struct, frozen=True, kw_only=True):
    """The answer.

    Attributes:
        is_score_valid: Read from `/evaluate` by the platform; the remote client of 0.3.33 drops it.
        error: Why there is no valid score.
    """

    score: float
    is_score_valid: bool
    reason: str
    metrics: dict[str, Metric]
    error: str | None = None


def read(request: dict[str, Any], options: Options, body: bytes) -> Reading:  # noqa: ARG001 - the contract
    """Return the row; its item is the further arguments with the prompt's messages."""
    messages = request.get("messages")
    if not isinstance(messages, list) or not all(isinstance(part, dict) for part in messages):
        raise RowError("messages: expected a list of objects")
    arguments = request.get("kwargs")
    if arguments is not None and not isinstance(arguments, dict):
        raise RowError("kwargs: expected an object")
    asked, answered = split(messages)
    own = {"messages", "kwargs", "ground_truth"}
    item: dict[str, JsonValue] = {
        **{key: value for key, value in request.items() if key not in own},
        **(arguments or {}),
        "messages": asked,
    }
    truth = request.get("ground_truth")
    fill(item, options, prompt=prompt_text(asked), label=truth, source=request)
    if options.sample is not None:
        return Reading(rows=[(item, sample_of(at(request, options.sample, "sample"), options))])
    return Reading(rows=[(item, sample_of_messages(answered, options))])


def reply(graded: Graded) -> EvaluateResult:
    """Return the score with its parts."""
    (result,) = graded.results
    made_by = f"{graded.grader}@{graded.version}"
    error = f"{result.error.code}: {result.error.message}" if result.error else None
    return EvaluateResult(
        score=result.reward,
        is_score_valid=result.ok,
        reason=error or made_by,
        metrics={
            key: Metric(
                score=value, is_score_valid=result.ok, success=result.ok, reason=f"{made_by}#{key}"
            )
            for key, value in (result.sub_rewards or {}).items()
        },
        error=error,
    )


DIALECT = Dialect(
    name="eval-protocol",
    callers="eval-protocol (Fireworks), remote reward functions",
    request=dict[str, Any],
    answer=EvaluateResult,
    read=read,
    reply=reply,
    parameters=(
        contract.prompt_key(),
        contract.label_key("ground_truth"),
        contract.sample_path("the last messages of `messages`"),
        contract.REASONING,
        contract.on_grader_failure("error", "mark"),
    ),
    on_error="the remote client raises and the row has no result",
    example={
        "messages": [
            {"role": "user", "content": "Capital of France?"},
            {"role": "assistant", "content": "Paris"},
        ],
        "ground_truth": "Paris",
    },
    suffixes=("/evaluate",),
)
