"""What every dialect is: one caller's wire format as pure functions and data.

A dialect reads a request into rows (item and `Sample`), and writes results back as that caller
expects them. It does no I/O, knows no HTTP and never decides what a reward is; the route does the
grading in between and answers what `Policy` says is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias

import msgspec

from graders.sample import JsonValue, Sample
from service.wire import RowResult

Row: TypeAlias = tuple[dict[str, JsonValue], Sample]
Path: TypeAlias = tuple[str, ...]
Policy: TypeAlias = Literal["error", "zero", "mask", "mark", "fail", "null", "code"]

_POLICIES: dict[Policy, str] = {
    "error": "an HTTP error, so that the caller retries, drops the sample or raises",
    "zero": "reward 0.0, whatever other parts of a `multi` are worth",
    "mask": "reward 0.0 with the marks that take the sample out of training and metrics",
    "mark": "score 0.0 with `is_score_valid: false`",
    "fail": "an assertion that did not pass, with the reason",
    "null": "a finished request without a score",
    "code": "the caller's own error code",
}


class Parameter(msgspec.Struct, frozen=True, kw_only=True):
    """One query parameter of a dialect.

    Attributes:
        name: As written in the URL.
        default: Taken when the URL does not say.
        meaning: One sentence.
        values: All that are allowed; empty for a free text.
    """

    name: str
    default: str
    meaning: str
    values: tuple[str, ...] = ()


class Pick(msgspec.Struct, frozen=True):
    """``item.<key>=<path>``: one more field of the item, from somewhere in the request."""

    key: str
    path: Path


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """The query parameters of one URL, parsed once.

    Attributes:
        chosen: Parameter → value, defaults filled in.
        prompt: Item field that takes the prompt; empty leaves it out.
        label: Item field that takes the label; empty leaves it out.
        picks: Further item fields.
        sample: Where the model's output stands in the request; None for the dialect's own place.
        strips_end_tokens: Whether end-of-turn tokens behind the output are dropped.
        splits_reasoning: Whether ``<think>…</think>`` leaves the output.
        on_grader_failure: What becomes of a sample that the grader cannot grade.
        on_infrastructure_failure: What becomes of a sample that nobody could be asked about.
    """

    chosen: dict[str, str]
    prompt: str = ""
    label: str = ""
    picks: tuple[Pick, ...] = ()
    sample: Path | None = None
    strips_end_tokens: bool = False
    splits_reasoning: bool = False
    on_grader_failure: Policy = "error"
    on_infrastructure_failure: Policy = "error"


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """A request, read.

    Attributes:
        rows: What to grade, in the caller's order.
        memo: What the reply needs besides the results; the dialect's own affair.
    """

    rows: list[Row]
    memo: Any = None


class Graded(msgspec.Struct, frozen=True, kw_only=True):
    """A request whose rows are graded.

    Attributes:
        memo: From the `Reading`.
        results: One a row, in order.
        options: Of the URL.
        grader: Name of the definition.
        version: Its concrete version.
    """

    memo: Any
    results: Sequence[RowResult]
    options: Options
    grader: str
    version: int


Read: TypeAlias = Callable[[Any, Options, bytes], Reading]
Reply: TypeAlias = Callable[[Graded], Any]


class Dialect(msgspec.Struct, frozen=True, kw_only=True):
    """One caller's wire format.

    Attributes:
        name: Last part of the URL.
        callers: Who speaks it.
        request: Type that the body is decoded into.
        answer: Type of the answer.
        read: Request, options and the body's bytes → rows.
            Raises `RowError` when the body says something that cannot be graded.
        reply: Results → answer. Sees only the failures whose policy is not ``error``.
        parameters: What the URL may say.
        on_error: What the caller does when it gets an HTTP error.
        example: A small request, as recorded; the failure table and the API description use it.
        upstream_status: HTTP status when something outside failed.
        suffixes: Paths below the route that mean the same, for clients that append their own.
    """

    name: str
    callers: str
    request: Any
    answer: Any
    read: Read
    reply: Reply
    parameters: tuple[Parameter, ...]
    on_error: str
    example: JsonValue
    upstream_status: Literal[429, 503] = 503
    suffixes: tuple[str, ...] = ()


class ParameterError(ValueError):
    """A query parameter that cannot be used.

    Attributes:
        name: The parameter.
        problem: What is wrong with it.
    """

    def __init__(self, name: str, problem: str) -> None:
        """Keep both."""
        self.name = name
        self.problem = problem
        super().__init__(f"{name}: {problem}")


def prompt_key(default: str = "prompt") -> Parameter:
    """Return the parameter that names the item field of the prompt."""
    meaning = (
        "Item field that takes the prompt, where one is sent; empty leaves it out. A field that "
        "the data set has itself is kept."
    )
    return Parameter(name="prompt", default=default, meaning=meaning)


def label_key(default: str) -> Parameter:
    """Return the parameter that names the item field of the label."""
    meaning = (
        "Item field that takes the label; empty leaves it out. A label that is not sent, or is "
        "`null`, leaves it out too."
    )
    return Parameter(name="label", default=default, meaning=meaning)


def sample_path(default: str) -> Parameter:
    """Return the parameter that says where the output stands; ``default`` is said in words."""
    meaning = f"Path to the model's output in the request; by default {default}."
    return Parameter(name="sample", default="", meaning=meaning)


def end_tokens(default: Literal["strip", "keep"]) -> Parameter:
    """Return the parameter for end-of-turn tokens behind a raw output."""
    return Parameter(
        name="end_tokens",
        default=default,
        meaning="`strip` drops end-of-turn tokens (`</s>`, `<|im_end|>` …) behind the output.",
        values=("strip", "keep"),
    )


REASONING = Parameter(
    name="reasoning",
    default="keep",
    meaning="`split` moves `<think>…</think>` from `output_text` to `output_reasoning_summary`.",
    values=("keep", "split"),
)


def on_grader_failure(*policies: Policy) -> Parameter:
    """Return the choice for samples that the grader cannot grade; the first is the default."""
    return _policy("on_grader_failure", "the grader cannot grade this sample", policies)


def on_infrastructure_failure(*policies: Policy) -> Parameter:
    """Return the choice for samples nobody could be asked about; the first is the default."""
    return _policy("on_infrastructure_failure", "something outside failed", policies)


def _policy(name: str, when: str, policies: tuple[Policy, ...]) -> Parameter:
    means = "; ".join(f"`{policy}`: {_POLICIES[policy]}" for policy in policies)
    return Parameter(
        name=name, default=policies[0], meaning=f"When {when}: {means}.", values=policies
    )
