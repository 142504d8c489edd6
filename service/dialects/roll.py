"""ROLL's remote reward system: submit, then poll (wire-protocols B.2, 8).

ROLL waits for ``errcode`` 0 and takes any other code for "not yet", up to its timeout. So a failure
is a finished request without a score: ROLL submits it again, five times, and puts its own 0 only
after that.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from graders.sample import JsonValue
from service.dialects import contract
from service.dialects.contract import Dialect, Graded, Options, Reading
from service.dialects.conversation import sample_of, sample_of_text
from service.dialects.mapping import at, fill, source_of

_MAX_TIMEOUT_S = 600.0


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """A submitted sample; ``timeout`` is in seconds."""

    prompt: JsonValue
    response: str
    reward_info: dict[str, JsonValue] = {}
    timeout: float = 300.0


class Poll(msgspec.Struct, frozen=True, kw_only=True):
    """The JSON body of the polling GET."""

    reward_request_id: str


class Submitted(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a submitted sample."""

    reward_request_id: str
    errcode: Literal[0] = 0
    errmsg: str = ""


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """One sub-reward; ROLL reads times from ``debug_info``."""

    score: float
    debug_info: dict[str, Any] = {}


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a poll: ``errcode`` 1 while it runs, 0 once it ended."""

    errcode: Literal[0, 1]
    reward_score: float | None = None
    dimention_reward_score: dict[str, Part] = {}
    start_time: str | None = None
    end_time: str | None = None
    errmsg: str = ""


RUNNING = Result(errcode=1)
UNKNOWN = Result(errcode=0, errmsg="no such request any more: submit it again")
TIMED_OUT = Result(errcode=0, errmsg="the time that the request allowed is over")
BROKEN = Result(errcode=0, errmsg="the service failed; its log says why")


def read(request: Request, options: Options, body: bytes) -> Reading:
    """Return the row; its item is ``reward_info`` with the prompt. The memo is the timeout."""
    source = source_of(body) if options.picks or options.sample else None
    item = dict(request.reward_info)
    truth = item.get("ground_truth")
    if truth is None:
        item.pop("ground_truth", None)
    fill(item, options, prompt=request.prompt, label=truth, source=source)
    if options.sample is not None:
        sample = sample_of(at(source, options.sample, "sample"), options)
    else:
        sample = sample_of_text(request.response, options)
    timeout_s = min(max(request.timeout, 1.0), _MAX_TIMEOUT_S)
    return Reading(rows=[(item, sample)], memo=timeout_s)


def reply(graded: Graded) -> Result:
    """Return the answer to the poll after the grading."""
    (result,) = graded.results
    error = result.error
    zero = error is not None and not error.upstream and graded.options.on_grader_failure == "zero"
    return Result(
        errcode=0,
        reward_score=result.reward if error is None or zero else None,
        dimention_reward_score={
            key: Part(score=value) for key, value in (result.sub_rewards or {}).items()
        },
        errmsg=f"{error.code}: {error.message}" if error else "",
    )


DIALECT = Dialect(
    name="roll",
    callers="ROLL, remote reward system",
    request=Request,
    answer=Submitted,
    read=read,
    reply=reply,
    parameters=(
        contract.prompt_key(),
        contract.label_key("ground_truth"),
        contract.sample_path("`response`"),
        contract.end_tokens("strip"),
        contract.REASONING,
        contract.on_grader_failure("null", "zero"),
        contract.on_infrastructure_failure("null"),
    ),
    on_error="submits 5 times a second apart; after 5 rounds without a score it takes 0 itself",
    example={
        "priority": 1,
        "project_id": "p",
        "experiment_id": "e",
        "global_step": "1",
        "data_id": "d",
        "rollout_id": "r",
        "prompt": "Capital of France?",
        "response": "Paris<|im_end|>",
        "reward_info": {"ground_truth": "Paris"},
        "reward_manager": [],
        "timeout": 300,
    },
)
