"""OpenRLHF, ``--remote_rm_url``: every request generation since v0.3 (wire-protocols B.2, 1).

``query`` is prompt and response joined, with special tokens; the response is what stands behind the
prompt. Lists of any length are answered with lists of that length.
"""

from __future__ import annotations

import msgspec

from graders.errors import RowError
from graders.sample import JsonValue
from service.dialects import contract
from service.dialects.contract import Dialect, Graded, Options, Reading, Row
from service.dialects.conversation import sample_of, sample_of_text
from service.dialects.mapping import at, fill, source_of


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What any generation posts; ``prompts`` came with v0.5.8, ``labels`` with v0.6.0."""

    query: list[str]
    prompts: list[JsonValue] | None = None
    labels: list[JsonValue] | None = None


class Rewards(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What every generation reads.

    Attributes:
        rewards: One a query.
        extra_logs: Numbers that OpenRLHF logs: sub-rewards, and which rewards are stand-ins.
    """

    rewards: list[float]
    extra_logs: dict[str, list[float]] = {}


def read(request: Request, options: Options, body: bytes) -> Reading:
    """Return one row a query."""
    count = len(request.query)
    for name, column in (("prompts", request.prompts), ("labels", request.labels)):
        if column is not None and len(column) != count:
            raise RowError(f"{name} has {len(column)} entries, query has {count}")
    source = source_of(body) if options.picks or options.sample else None
    return Reading(rows=[_row(request, n, options, source) for n in range(count)])


def _row(request: Request, number: int, options: Options, source: JsonValue) -> Row:
    query = request.query[number]
    prompt = None if request.prompts is None else request.prompts[number]
    label = None if request.labels is None else request.labels[number]
    own = _columns(source, number, len(request.query))
    item = fill({}, options, prompt=prompt, label=label, source=own)
    if options.sample is not None:
        return item, sample_of(at(own, options.sample, "sample"), options)
    return item, sample_of_text(_response(query, prompt), options)


def _columns(source: JsonValue, number: int, count: int) -> JsonValue:
    """Return the request with this row's entry in the place of every column."""
    if not isinstance(source, dict):
        return None
    return {
        key: value[number] if isinstance(value, list) and len(value) == count else value
        for key, value in source.items()
    }


def _response(query: str, prompt: JsonValue) -> str:
    """Return what the model wrote.

    Decoding puts a start token before some prompts, so the prompt is looked for and not only
    compared.

    Raises:
        RowError: The prompt is not in the query, so nobody knows where the response begins.
    """
    if not isinstance(prompt, str) or not prompt:
        return query
    if query.startswith(prompt):
        return query[len(prompt) :]
    _, found, response = query.partition(prompt)
    if not found:
        raise RowError("the query does not hold its prompt; sample=query grades the whole query")
    return response


def reply(graded: Graded) -> Rewards:
    """Return the rewards; sub-rewards and failures go to the logs."""
    results = graded.results
    logs: dict[str, list[float]] = {}
    if any(result.sub_rewards for result in results):
        keys = dict.fromkeys(key for result in results for key in result.sub_rewards or {})
        for key in keys:
            logs[key] = [(result.sub_rewards or {}).get(key, 0.0) for result in results]
    if not all(result.ok for result in results):
        logs["grader_failed"] = [float(not result.ok) for result in results]
    return Rewards(rewards=[result.reward for result in results], extra_logs=logs)


DIALECT = Dialect(
    name="openrlhf",
    callers="OpenRLHF",
    request=Request,
    answer=Rewards,
    read=read,
    reply=reply,
    parameters=(
        contract.prompt_key(),
        contract.label_key("label"),
        contract.sample_path("what stands behind the prompt in `query`"),
        contract.end_tokens("strip"),
        contract.REASONING,
        contract.on_grader_failure("error", "zero"),
    ),
    on_error="tries 5 times a second apart, then logs it and takes reward None for the sample",
    example={
        "query": ["Capital of France? Paris</s>"],
        "prompts": ["Capital of France? "],
        "labels": ["Paris"],
    },
)
