"""Langfuse's external code-evaluator executor, a grader in place of the code (B.2, 15).

Retried are 409, 429 and 500 only, so a failure of something outside is 429 here. A grader that
cannot grade answers 200 with ``error``, which Langfuse shows and does not retry. Requests carry
code; it is not run and not kept.

The shared secret is a bearer token (tests of langfuse/langfuse at
5af11771e5c908f29b57d02730e291328ded654d), checked as every key is. Langfuse's FAQ of November 2026
speaks of signed requests; header, algorithm and signed bytes are not published where we could read
them, and none is guessed here.
"""

from __future__ import annotations

from typing import Any

import msgspec

from graders.sample import JsonValue
from service.dialects import contract
from service.dialects.contract import Dialect, Graded, Options, Parameter, Reading
from service.dialects.conversation import sample_of
from service.dialects.mapping import at, fill, source_of
from service.wire import RowError

_MAX_MESSAGE_CHARS = 2_000


class Observation(msgspec.Struct, frozen=True, kw_only=True):
    """What is scored."""

    input: JsonValue = None
    output: JsonValue = None
    metadata: JsonValue = None
    tool_calls: list[dict[str, Any]] | None = msgspec.field(default=None, name="toolCalls")


class Experiment(msgspec.Struct, frozen=True, kw_only=True):
    """The dataset item of an experiment; ``expectedOutput`` is the earlier name."""

    item_expected_output: JsonValue = msgspec.field(default=None, name="itemExpectedOutput")
    expected_output: JsonValue = msgspec.field(default=None, name="expectedOutput")
    item_metadata: JsonValue = msgspec.field(default=None, name="itemMetadata")


class Payload(msgspec.Struct, frozen=True, kw_only=True):
    """An observation, and in experiments the dataset item."""

    observation: Observation
    experiment: Experiment | None = None


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """The part of a dispatch that a grader needs."""

    payload: Payload


class Score(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One score of the observation."""

    name: str
    value: float
    data_type: str = msgspec.field(name="dataType")
    comment: str = ""


class Scores(msgspec.Struct, frozen=True, kw_only=True):
    """The answer when there is one."""

    scores: list[Score]


class Error(msgspec.Struct, frozen=True, kw_only=True):
    """Why there is none, in Langfuse's vocabulary."""

    code: str
    message: str


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """The answer when there is no score; nothing may stand beside ``error``."""

    error: Error


def read(request: Request, options: Options, body: bytes) -> Reading:
    """Return the row."""
    seen = request.payload.observation
    experiment = request.payload.experiment or Experiment()
    expected = experiment.item_expected_output
    item: dict[str, JsonValue] = {
        "metadata": seen.metadata,
        "item_metadata": experiment.item_metadata,
    }
    source = source_of(body) if options.picks or options.sample else None
    label = experiment.expected_output if expected is None else expected
    fill(item, options, prompt=seen.input, label=label, source=source)
    output = at(source, options.sample, "sample") if options.sample else seen.output
    if seen.tool_calls and isinstance(output, str | None):
        output = {"role": "assistant", "content": output, "tool_calls": seen.tool_calls}
    return Reading(rows=[(item, sample_of("" if output is None else output, options))])


def reply(graded: Graded) -> Scores | Refusal:
    """Return the reward as a score of the grader's name, its parts as further ones."""
    (result,) = graded.results
    if result.error is not None:
        return _refusal(result.error)
    name = graded.options.chosen["score_name"] or graded.grader
    main = Score(
        name=name,
        value=result.reward,
        data_type="NUMERIC",
        comment=f"{graded.grader}@{graded.version}",
    )
    parts = [
        Score(name=f"{name}.{key}", value=value, data_type="NUMERIC")
        for key, value in (result.sub_rewards or {}).items()
    ]
    return Scores(scores=[main, *parts])


def _refusal(error: RowError) -> Refusal:
    message = f"{error.code}: {error.message}"[:_MAX_MESSAGE_CHARS]
    return Refusal(error=Error(code="USER_CODE_ERROR", message=message))


DIALECT = Dialect(
    name="langfuse",
    callers="Langfuse, external executor of code evaluators",
    request=Request,
    answer=dict[str, Any],
    read=read,
    reply=reply,
    parameters=(
        contract.prompt_key("input"),
        contract.label_key("expected_output"),
        contract.sample_path("`payload.observation.output`"),
        Parameter(
            name="score_name",
            default="",
            meaning="Name of the score; by default the grader's.",
        ),
        contract.REASONING,
        contract.on_grader_failure("code"),
    ),
    on_error="retries 409, 429 and 500; shows everything else as the failure of the evaluator",
    example={
        "scope": {"organizationId": "o", "projectId": "p", "evaluatorId": "e"},
        "runtime": {"language": "PYTHON"},
        "execution": {"jobExecutionId": "j"},
        "code": {"source": ""},
        "payload": {
            "observation": {"input": "Capital of France?", "output": "Paris", "metadata": None},
            "experiment": {"itemExpectedOutput": "Paris", "itemMetadata": None},
        },
    },
    upstream_status=429,
)
