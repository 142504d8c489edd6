"""AWS: SageMaker and Bedrock reward functions behind a Lambda forwarder (wire-protocols B.2, 10).

All envelopes seen are taken: a bare list (Nova), ``{"trajectories": […]}`` and ``{"batch": […]}``
(open-weights), and each of them as the text ``body`` of an HTTP event.
"""

from __future__ import annotations

from typing import Any

import msgspec

from graders.errors import RowError
from graders.sample import JsonValue
from service.dialects import contract
from service.dialects.contract import Dialect, Graded, Options, Parameter, Reading, Row
from service.dialects.conversation import prompt_text, sample_of, sample_of_messages, split
from service.dialects.mapping import at, fill

_WRAPPERS = ("trajectories", "batch")


class Metric(msgspec.Struct, frozen=True, kw_only=True):
    """One more number about a sample."""

    name: str
    value: float
    type: str = "Metric"


class Output(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The reward of one sample."""

    id: JsonValue
    aggregate_reward_score: float
    metrics_list: list[Metric] = []


def read(request: JsonValue, options: Options, body: bytes) -> Reading:  # noqa: ARG001 - the contract
    """Return one row a sample; the memo keeps the ids and whether the answer is enveloped."""
    samples, wrapped = _samples(request)
    ids: list[JsonValue] = []
    rows: list[Row] = []
    for number, sample in enumerate(samples):
        if not isinstance(sample, dict) or not isinstance(sample.get("messages"), list):
            raise RowError(f"sample {number}: expected an object with a list 'messages'")
        if not all(isinstance(message, dict) for message in sample["messages"]):
            raise RowError(f"sample {number}: every message must be an object")
        ids.append(sample.get("id"))
        rows.append(_row(sample, number, options))
    wrapped = wrapped or any(_is_open_weights(sample) for sample in samples)
    return Reading(rows=rows, memo=(ids, wrapped))


def _samples(request: JsonValue) -> tuple[list[Any], bool]:
    """Return the samples, and whether they came in an open-weights envelope."""
    if isinstance(request, dict) and isinstance(request.get("body"), str):
        try:
            inner = msgspec.json.decode(request["body"].encode())
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            raise RowError("body: expected a text that holds JSON") from error
        return _samples(inner)[0], True
    if isinstance(request, dict):
        for key in _WRAPPERS:
            if isinstance(request.get(key), list):
                return request[key], True
    if not isinstance(request, list):
        raise RowError("expected a list of samples, or an object with 'trajectories' or 'batch'")
    return request, False


def _is_open_weights(sample: dict[str, Any]) -> bool:
    metadata = sample.get("metadata")
    return (
        "reference_answer" not in sample
        and isinstance(metadata, dict)
        and "reference_answer" in metadata
    )


def _row(sample: dict[str, Any], number: int, options: Options) -> Row:
    asked, answered = split(sample["messages"])
    metadata = sample.get("metadata")
    item: dict[str, JsonValue] = {
        **(metadata if isinstance(metadata, dict) else {}),
        **{key: value for key, value in sample.items() if key not in {"metadata", "messages"}},
        "messages": asked,
    }
    reference = item.pop("reference_answer", None)
    fill(item, options, prompt=prompt_text(asked), label=reference, source=sample)
    if options.sample is not None:
        return item, sample_of(at(sample, options.sample, "sample"), options)
    try:
        return item, sample_of_messages(answered, options)
    except RowError as error:
        raise RowError(f"sample {number}: {error}") from error


def reply(graded: Graded) -> Any:  # noqa: ANN401 - JSON
    """Return the outputs, enveloped as an HTTP answer where the caller wants that."""
    ids, wrapped = graded.memo
    outputs = [
        Output(
            id=own,
            aggregate_reward_score=result.reward,
            metrics_list=[
                *(Metric(name=key, value=part) for key, part in (result.sub_rewards or {}).items()),
                *([] if result.ok else [Metric(name="grader_failed", value=1.0)]),
            ],
        )
        for own, result in zip(ids, graded.results, strict=True)
    ]
    envelope = graded.options.chosen["envelope"]
    if envelope == "list" or (envelope == "auto" and not wrapped):
        return outputs
    return {
        "statusCode": 200,
        "headers": {"Content-Type": "application/json"},
        "body": msgspec.json.encode(outputs).decode(),
    }


DIALECT = Dialect(
    name="aws",
    callers="Amazon SageMaker and Bedrock RFT, Nova and open weights, by way of a Lambda",
    request=Any,
    answer=list[Output] | dict[str, Any],
    read=read,
    reply=reply,
    parameters=(
        contract.prompt_key(),
        contract.label_key("reference_answer"),
        contract.sample_path("the last messages of `messages`"),
        Parameter(
            name="envelope",
            default="auto",
            meaning="`list` answers a bare list (Nova), `http` `{statusCode, headers, body}` (open "
            "weights); `auto` follows the request.",
            values=("auto", "list", "http"),
        ),
        contract.REASONING,
        contract.on_grader_failure("error", "zero"),
    ),
    on_error="our forwarder raises, so the invocation fails and the job decides",
    example=[
        {
            "id": "sample_1",
            "messages": [
                {"role": "user", "content": "Capital of France?"},
                {"role": "assistant", "content": "Paris"},
            ],
            "reference_answer": "Paris",
        }
    ],
)
