"""Azure's and OpenAI's RFT ``endpoint`` grader, we being the endpoint (wire-protocols B.2, 9)."""

from __future__ import annotations

from typing import Any

import msgspec

from graders.sample import Sample
from service.dialects import contract
from service.dialects.contract import Dialect, Graded, Options, Reading
from service.dialects.conversation import sample_of
from service.dialects.mapping import at, fill, source_of


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """``sample`` and ``item`` as every grader sees them."""

    sample: dict[str, Any]
    item: dict[str, Any] = {}
    trace_id: str | None = None


class Score(msgspec.Struct, frozen=True, kw_only=True):
    """The whole answer."""

    score: float


def read(request: Request, options: Options, body: bytes) -> Reading:
    """Return the row, which needs no mapping."""
    item, sample = request.item, Sample.from_object(request.sample)
    if options.picks or options.sample:
        source = source_of(body)
        fill(item, options, source=source)
        if options.sample is not None:
            sample = sample_of(at(source, options.sample, "sample"), options)
    return Reading(rows=[(item, sample)])


def reply(graded: Graded) -> Score:
    """Return the score."""
    (result,) = graded.results
    return Score(score=result.reward)


DIALECT = Dialect(
    name="azure-endpoint",
    callers="Azure and OpenAI reinforcement fine-tuning with an endpoint grader",
    request=Request,
    answer=Score,
    read=read,
    reply=reply,
    parameters=(
        contract.sample_path("`sample`"),
        contract.on_grader_failure("error", "zero"),
    ),
    on_error="tries 3 times, then discards the rollout",
    example={
        "sample": {
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": "Paris", "tool_calls": []},
                    "finish_reason": "stop",
                }
            ],
            "output_text": "Paris",
            "output_json": None,
            "output_tools": [],
            "output_reasoning_summary": None,
        },
        "item": {"messages": [{"role": "user", "content": "Capital of France?"}], "label": "Paris"},
        "trace_id": "trace_0123456789abcdef",
    },
)
