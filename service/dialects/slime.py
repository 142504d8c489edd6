"""slime and miles, ``--rm-type remote_rm``: the JSON body is the reward (wire-protocols B.2, 2)."""

from __future__ import annotations

from typing import Any

import msgspec

from graders.sample import JsonValue
from service.dialects import contract
from service.dialects.contract import Dialect, Graded, Options, Parameter, Reading
from service.dialects.conversation import sample_of, sample_of_text
from service.dialects.mapping import at, fill, source_of


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One sample; the prompt is a text or a list of messages."""

    response: str
    prompt: JsonValue = None
    label: JsonValue = None


def read(request: Request, options: Options, body: bytes) -> Reading:
    """Return the row."""
    source = source_of(body) if options.picks or options.sample else None
    item = fill({}, options, prompt=request.prompt, label=request.label, source=source)
    if options.sample is not None:
        return Reading(rows=[(item, sample_of(at(source, options.sample, "sample"), options))])
    return Reading(rows=[(item, sample_of_text(request.response, options))])


def reply(graded: Graded) -> Any:  # noqa: ANN401 - JSON
    """Return the reward, or with ``reply=object`` what ``--reward-key reward`` picks it from."""
    (result,) = graded.results
    if graded.options.chosen["reply"] == "number":
        return result.reward
    return {**(result.sub_rewards or {}), "reward": result.reward, "ok": result.ok}


DIALECT = Dialect(
    name="slime",
    callers="slime, miles",
    request=Request,
    answer=float | dict[str, Any],
    read=read,
    reply=reply,
    parameters=(
        contract.prompt_key(),
        contract.label_key("label"),
        contract.sample_path("`response`"),
        Parameter(
            name="reply",
            default="number",
            meaning="`object` answers `{reward, ok, …sub-rewards}` for `--reward-key reward`.",
            values=("number", "object"),
        ),
        contract.end_tokens("strip"),
        contract.REASONING,
        contract.on_grader_failure("error", "zero"),
    ),
    on_error="slime tries 10 times with back-off up to 30 s, miles once; then the rollout raises",
    example={"prompt": "Capital of France?", "response": "Paris<|im_end|>", "label": "Paris"},
)
