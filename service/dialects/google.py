"""Google's Gemini reinforcement tuning, custom reward on Cloud Run (wire-protocols B.2, 11)."""

from __future__ import annotations

from typing import Any

import msgspec

from graders.sample import JsonValue
from service.dialects import contract
from service.dialects.contract import Dialect, Graded, Options, Reading
from service.dialects.conversation import prompt_text, sample_of, sample_of_messages
from service.dialects.mapping import at, fill, source_of


class Example(msgspec.Struct, frozen=True, kw_only=True):
    """The dataset row; ``references`` are its named reference values."""

    contents: list[dict[str, Any]] = []
    references: dict[str, JsonValue] = {}
    system_instruction: JsonValue = msgspec.field(default=None, name="systemInstruction")


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One sample; ``response`` is Gemini's content with parts."""

    example: Example
    response: dict[str, Any]
    metadata: dict[str, JsonValue] = {}


class Reward(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The answer; Google clips the reward to [-1, 1]."""

    reward: float
    user_requested_aux_info: str = ""


def read(request: Request, options: Options, body: bytes) -> Reading:
    """Return the row; its item is the references with the contents beside them."""
    example = request.example
    item: dict[str, JsonValue] = {
        "contents": example.contents,
        "system_instruction": example.system_instruction,
        **example.references,
    }
    source = source_of(body) if options.picks or options.sample else None
    fill(item, options, prompt=prompt_text(example.contents), source=source)
    if options.sample is not None:
        return Reading(rows=[(item, sample_of(at(source, options.sample, "sample"), options))])
    output = {**request.response, "role": "model"}
    return Reading(rows=[(item, sample_of_messages([output], options))])


def reply(graded: Graded) -> Reward:
    """Return the reward; sub-rewards and a failure go to the auxiliary text."""
    (result,) = graded.results
    info: dict[str, JsonValue] = {**(result.sub_rewards or {})}
    if result.error is not None:
        info["error"] = result.error.code
    return Reward(
        reward=result.reward,
        user_requested_aux_info=msgspec.json.encode(info).decode() if info else "",
    )


DIALECT = Dialect(
    name="google",
    callers="Gemini reinforcement tuning on Google Cloud",
    request=Request,
    answer=Reward,
    read=read,
    reply=reply,
    parameters=(
        contract.prompt_key(),
        contract.sample_path("`response`"),
        contract.on_grader_failure("error", "zero"),
    ),
    on_error="what Google does then is not published",
    example={
        "example": {
            "contents": [{"role": "user", "parts": [{"text": "Capital of France?"}]}],
            "references": {"label": "Paris"},
        },
        "response": {"role": "model", "parts": [{"text": "Paris"}]},
        "metadata": {"step": 1, "tuning_job_id": "123"},
    },
)
