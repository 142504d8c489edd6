"""NeMo Gym resources servers: ``/verify``, ``/seed_session``, ``/aggregate_metrics``.

A client is pointed at the base URL and appends these paths (wire-protocols B.2, 3). The reply is
the request with the reward beside it. How a failed sample is marked has changed several times, so
all known marks are given; only where the URL asks for them, because verifiers ignores every one and
takes the 0.0 beside them.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from typing import Any

import msgspec

from graders.errors import RowError
from graders.sample import JsonValue
from service.dialects import contract
from service.dialects.contract import Dialect, Graded, Options, Parameter, Reading
from service.dialects.conversation import prompt_text, sample_of, sample_of_items
from service.dialects.mapping import at, fill
from service.groups import statistics_of
from service.wire import RowError as Error
from service.wire import RowResult

_encode = msgspec.json.Encoder().encode
_TASK = "_ng_task_index"
_KINDS = {  # our code → nemo_gym.failure_kinds
    "model_parse": "judge_unparseable",
    "model_refusal": "judge_failed",
    "model_exceeded_max_tokens": "judge_failed",
    "judge_unavailable": "judge_failed",
    "budget_exceeded": "provider_quota_exhausted",
    "overloaded": "provider_quota_exhausted",
    "sandbox_unavailable": "provider_unavailable",
    "embedder_unavailable": "provider_unavailable",
    "endpoint_unavailable": "transport_unreachable",
}


class AggregateRequest(msgspec.Struct, frozen=True, kw_only=True):
    """``/aggregate_metrics``: replies of ``/verify``, stripped."""

    verify_responses: list[dict[str, Any]]


class AggregateMetrics(msgspec.Struct, frozen=True, kw_only=True):
    """Mean, max, min, median and standard deviation of every number, a task and overall."""

    group_level_metrics: list[dict[str, Any]]
    agent_metrics: dict[str, Any]
    key_metrics: dict[str, Any]


def read(request: dict[str, Any], options: Options, body: bytes) -> Reading:
    """Return the row; its item is the dataset row with ``responses_create_params``."""
    item = {**request}
    item.pop("response", None)
    fill(item, options, prompt=_prompt(request.get("responses_create_params")), source=request)
    response = request.get("response")
    if not isinstance(response, dict) or not isinstance(response.get("output"), list):
        raise RowError("response: expected an object with a list 'output'")
    if options.sample is not None:
        sample = sample_of(at(request, options.sample, "sample"), options)
    else:
        sample = sample_of_items(response["output"], options)
    return Reading(rows=[(item, sample)], memo=(body, request))


def _prompt(params: JsonValue) -> str:
    asked = params.get("input", "") if isinstance(params, dict) else None
    if isinstance(asked, str):
        return asked
    if isinstance(asked, list) and all(isinstance(message, dict) for message in asked):
        return prompt_text(asked)
    raise RowError("responses_create_params: expected 'input', a text or a list of messages")


def reply(graded: Graded) -> Any:  # noqa: ANN401 - JSON
    """Return the request with the reward, its parts, and the marks of a failure."""
    (result,) = graded.results
    body, echo = graded.memo
    added: dict[str, Any] = {"reward": result.reward}
    parts = result.sub_rewards or {}
    if parts:
        added.update((f"sub_reward_{key}", value) for key, value in parts.items())
    if graded.options.chosen["reward_components"] == "on":
        added["reward_components"] = _components(result, parts)
    if result.error is not None and _policy(graded.options, result.error) == "mask":
        added.update(_marks(result.error))
    if not added.keys().isdisjoint(echo):
        return {**echo, **added}
    # The request is echoed as it came: writing it again would cost more than the grading.
    return msgspec.Raw(b"%b,%b" % (body.rstrip()[:-1], _encode(added)[1:]))


def _policy(options: Options, error: Error) -> str:
    return options.on_infrastructure_failure if error.upstream else options.on_grader_failure


def _components(result: RowResult, parts: dict[str, float]) -> dict[str, float]:
    """Return parts whose sum is the reward, as NeMo RL demands, under keys that never change."""
    if not parts:
        return {"reward": result.reward}
    return {**parts, "formula": result.reward - sum(parts.values())}


def _marks(error: Error) -> dict[str, Any]:
    return {
        "mask_sample": True,
        "failure_kind": _KINDS.get(error.code, "verifier_error"),
        "failure_reason": f"{error.code}: {error.message}",
        "_ng_failure_class": "judge_failed" if error.upstream else "grader_failed",
        "_ng_failure_judge_error": error.message,
        "_ng_failure_terminal": not error.retryable,
    }


def aggregate(request: AggregateRequest) -> AggregateMetrics:
    """Return the statistics of the replies that are not masked."""
    rows = [
        row
        for row in request.verify_responses
        if row.get("mask_sample") is not True and "_ng_failure_class" not in row
    ]
    tasks: dict[Any, list[dict[str, Any]]] = {}
    for row in rows:
        task = row.get(_TASK, 0)
        tasks.setdefault(task if isinstance(task, int) else str(task), []).append(row)
    overall = _statistics(rows)
    return AggregateMetrics(
        group_level_metrics=[{_TASK: task, **_statistics(own)} for task, own in tasks.items()],
        agent_metrics=overall,
        key_metrics={key: value for key, value in overall.items() if key.startswith("mean/")},
    )


def _statistics(rows: Iterable[dict[str, Any]]) -> dict[str, float]:
    """Return the statistics of every column of numbers; of one with a number beyond a float, none.

    Rows are echoed data sets, where such a number may be a label.
    """
    columns: dict[str, list[float]] = {}
    beyond: set[str] = set()
    for row in rows:
        for key, value in row.items():
            if isinstance(value, int | float) and not key.startswith("_ng_"):
                try:
                    columns.setdefault(key, []).append(float(value))
                except OverflowError:
                    beyond.add(key)
    found: dict[str, float] = {}
    for key, values in columns.items():
        if key in beyond:
            continue
        own = statistics_of(values, rows=len(values))
        assert own.mean is not None  # noqa: S101 - a column has a value
        assert own.std is not None  # noqa: S101 - likewise
        found[f"mean/{key}"] = own.mean
        found[f"max/{key}"] = max(values)
        found[f"min/{key}"] = min(values)
        found[f"median/{key}"] = statistics.median([value / 2 for value in values]) * 2
        found[f"std/{key}"] = own.std
    return found


DIALECT = Dialect(
    name="nemo-gym",
    callers="NeMo Gym, NeMo RL, verifiers, prime-rl",
    request=dict[str, Any],
    answer=dict[str, Any],
    read=read,
    reply=reply,
    parameters=(
        contract.prompt_key(""),
        contract.sample_path("`response.output`"),
        Parameter(
            name="reward_components",
            default="off",
            meaning="`on` adds `reward_components`, whose sum is the reward, for NeMo RL.",
            values=("off", "on"),
        ),
        contract.REASONING,
        contract.on_grader_failure("error", "mask", "zero"),
        contract.on_infrastructure_failure("error", "mask"),
    ),
    on_error="verifiers records the rollout as failed; NeMo Gym's agent answers 500 for it",
    example={
        "responses_create_params": {"input": [{"role": "user", "content": "Capital of France?"}]},
        "response": {
            "id": "resp_1",
            "created_at": 1.0,
            "model": "policy",
            "object": "response",
            "output": [
                {
                    "id": "msg_1",
                    "type": "message",
                    "role": "assistant",
                    "status": "completed",
                    "content": [{"type": "output_text", "text": "Paris", "annotations": []}],
                }
            ],
            "parallel_tool_calls": True,
            "tool_choice": "auto",
            "tools": [],
        },
        "label": "Paris",
    },
    suffixes=("/verify",),
)
