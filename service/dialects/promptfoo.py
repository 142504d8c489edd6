"""promptfoo's ``webhook`` assertion (wire-protocols B.2, 14)."""

from __future__ import annotations

import msgspec

from graders.sample import JsonValue
from service.dialects import contract
from service.dialects.contract import Dialect, Graded, Options, Reading
from service.dialects.conversation import sample_of
from service.dialects.mapping import at, fill, source_of


class Context(msgspec.Struct, frozen=True, kw_only=True):
    """What the output was made from."""

    prompt: JsonValue = None
    vars: dict[str, JsonValue] = {}


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One output; it is a text, or JSON where the provider parses it."""

    output: JsonValue
    context: Context = Context()


class Assertion(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the output passed."""

    passed: bool = msgspec.field(name="pass")
    score: float
    reason: str


def read(request: Request, options: Options, body: bytes) -> Reading:
    """Return the row; its item is the variables of the test."""
    item = dict(request.context.vars)
    source = source_of(body) if options.picks or options.sample else None
    fill(item, options, prompt=request.context.prompt, source=source)
    output = at(source, options.sample, "sample") if options.sample else request.output
    return Reading(rows=[(item, sample_of(output, options))])


def reply(graded: Graded) -> Assertion:
    """Return the verdict against the definition's pass threshold."""
    (result,) = graded.results
    made_by = f"{graded.grader}@{graded.version}"
    if result.error is not None:
        reason = f"{made_by} could not grade: {result.error.code}: {result.error.message}"
        return Assertion(passed=False, score=0.0, reason=reason)
    parts = "".join(f", {key} {value:g}" for key, value in (result.sub_rewards or {}).items())
    return Assertion(
        passed=result.passed, score=result.reward, reason=f"{made_by}: {result.reward:g}{parts}"
    )


DIALECT = Dialect(
    name="promptfoo",
    callers="promptfoo, assertion type `webhook`",
    request=Request,
    answer=Assertion,
    read=read,
    reply=reply,
    parameters=(
        contract.prompt_key(),
        contract.sample_path("`output`"),
        contract.REASONING,
        contract.on_grader_failure("error", "fail"),
    ),
    on_error="fails the assertion with the status as its reason, for `not-webhook` too",
    example={
        "output": "Paris",
        "context": {"prompt": "Capital of France?", "vars": {"label": "Paris"}},
    },
)
