"""``score_model``: a judge model gives a number, clamped into ``range`` (spec §3.3, §9.8).

A reply that is no number is worth literal 0.0, even where 0 lies below the range, and sets a flag.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from graders import judging, schema
from graders.building import Builder, Item
from graders.errors import ModelGraderParseError
from graders.ports import JudgeCall, JudgeReply
from graders.sample import Sample


def build_request(
    grader: schema.ScoreModel, builder: Builder, pointer: str
) -> Callable[[Item, Sample], JudgeCall]:
    """Return what builds the question to the judge; a bad ``range`` is recorded."""
    low, high = grader.range
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        problem = f"expected two finite numbers, the lower first, but got [{low}, {high}]."
        builder.invalid(f"{pointer}/range", problem)
    result = {
        "type": "number",
        "description": "The float score assigned to the response. "
        f"This should be in inclusive range {low} to {high}.",
    }
    return judging.build_request(
        grader, builder, pointer, schema_name="float_score_classification", result=result
    )


def score(grader: schema.ScoreModel, reply: JudgeReply) -> float:
    """Return the judge's number, clamped into the grader's range.

    Raises:
        ModelGraderRefusalError, ModelGraderTokenLimitError: The judge did not answer.
        ModelGraderParseError: The reply is not in the asked form, or ``result`` is no finite number
            (a numeric string and a boolean are none).
    """
    result = judging.result_of(reply)
    if isinstance(result, bool) or not isinstance(result, int | float):
        raise ModelGraderParseError(
            f"the judge's 'result' is no number but {type(result).__name__}"
        )
    low, high = grader.range
    return float(min(max(result, low), high))
