"""How every kind of failure reaches every caller, as Markdown: the code asked, not prose.

Each cell comes from reading the dialect's example, giving it a made-up result, and deciding and
replying as the route does. `tests/dialects/test_failures.py` walks the same table over HTTP.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from service.dialects.contract import Dialect, Graded, Parameter
from service.dialects.mapping import parse
from service.dialects.refusing import refusal
from service.wire import RowError, RowResult

_encode = msgspec.json.Encoder().encode

GOOD = RowResult(reward=1.0, ok=True, passed=True)
_MESSAGE = "…"
UNGRADED = RowError(code="python_runtime", message=_MESSAGE)
UNLABELLED = RowError(code="invalid_variable", message=_MESSAGE)
NO_LABEL = "no label is sent, and the grader reads it"
OUTSIDE: dict[str, RowError] = {
    "the judge is down or too slow": RowError(
        code="judge_unavailable", message=_MESSAGE, upstream=True, retryable=True
    ),
    "too much waits, or the budget is spent": RowError(
        code="overloaded", message=_MESSAGE, upstream=True, retryable=True
    ),
    "this process cannot ask (no judge, no sandbox)": RowError(
        code="sandbox_unavailable", message=_MESSAGE, upstream=True
    ),
}
REQUESTS = (
    ("the body is no JSON of this form, a row or a query parameter cannot be read", "400"),
    ("no key, or a wrong one", "401"),
    ("the key may not score; a key in the URL may do more than score", "403"),
    ("no such grader, no such version", "404"),
    ("the body or the batch is too large", "413"),
    ("a fault of ours", "500"),
    ("the caller goes away before the answer", "nothing; what was asked for it is cancelled"),
)


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """What one caller gets in one case.

    Attributes:
        query: Query string that chooses this behaviour; empty for the default.
        status: Of HTTP.
        body: The answer, an echoed request left out; None where it is a problem document.
    """

    query: str
    status: int
    body: Any = None

    def __str__(self) -> str:
        """Return the cell as Markdown."""
        text = f"{self.status}"
        if self.body is not None:
            shown = _encode(self.body).decode().replace("|", "\\|")
            text = f"{text} `{shown}`"
        return f"`?{self.query}` {text}" if self.query else text


def policies(dialect: Dialect, name: str) -> list[str]:
    """Return the query strings for every choice of ``name``, the default's first and empty."""
    known = {parameter.name: parameter for parameter in dialect.parameters}
    if name not in known:
        return [""]
    return ["", *(f"{name}={value}" for value in known[name].values[1:])]


def cell(dialect: Dialect, result: RowResult, query: str) -> Cell:
    """Return what a caller gets whose sample came to ``result``."""
    options = parse(dialect, query)
    refused = refusal(dialect, options, [result])
    if refused is not None:
        return Cell(query=query, status=refused.status)
    body = _encode(dialect.example)
    request = msgspec.json.decode(body, type=dialect.request)
    reading = dialect.read(request, options, body)
    graded = Graded(
        memo=reading.memo, results=[result], options=options, grader="capital", version=1
    )
    answer = msgspec.json.decode(_encode(dialect.reply(graded)))
    return Cell(query=query, status=200, body=_without_echo(answer, dialect.example))


def cases(dialect: Dialect) -> list[tuple[str, RowResult, str]]:
    """Return every failure of a result with every choice that the URL has: when, result, query."""
    own = [
        ("the grader cannot grade", failed(UNGRADED), query)
        for query in policies(dialect, "on_grader_failure")
    ]
    outside = [
        (when, failed(error), query)
        for when, error in OUTSIDE.items()
        for query in policies(dialect, "on_infrastructure_failure")
    ]
    return [*own, (NO_LABEL, failed(UNLABELLED), ""), *outside]


def failed(error: RowError) -> RowResult:
    """Return the result of a row with this error."""
    return RowResult(reward=0.0, ok=False, passed=False, error=error)


def _without_echo(answer: Any, request: Any) -> Any:  # noqa: ANN401 - JSON
    if isinstance(answer, dict) and isinstance(request, dict) and request.keys() <= answer.keys():
        return {key: value for key, value in answer.items() if key not in request}
    return answer


def document(dialects: Mapping[str, Dialect]) -> str:
    """Return the page: failures by dialect, failures of requests, parameters by dialect."""
    lines = [
        "# What reaches each caller, and what its URL may say",
        "",
        "Written by `python -m tests.tools.dialects` from `service/dialects`; do not edit.",
        "",
        "An HTTP error has a problem document (`application/problem+json`) as its body; 429 and",
        "503 have `Retry-After`. `…` stands for a sentence. A grader *cannot grade* when a",
        "variable is missing, user code raises, runs out of time or returns NaN, or a judge's",
        "reply cannot be read. Trying again would not help. When *something outside* failed,",
        "nobody gave a reward. Neither becomes a number unless the URL says so, and then beside a",
        "mark that says it is none, where the caller has one; of what failed outside always so.",
    ]
    for dialect in dialects.values():
        lines += _section(dialect)
    lines += ["", "## Every dialect: requests that are refused", "", "| when | status |"]
    lines += ["|---|---|", *(f"| {when} | {status} |" for when, status in REQUESTS)]
    return "\n".join(lines) + "\n"


def _section(dialect: Dialect) -> list[str]:
    lines = [
        "",
        f"## {dialect.name}",
        "",
        f"{dialect.callers}.",
        "",
        "| when | answer |",
        "|---|---|",
    ]
    lines.append(f"| reward 1.0 | {cell(dialect, GOOD, '')} |")
    lines += [
        f"| {when} | {cell(dialect, result, query)} |" for when, result, query in cases(dialect)
    ]
    lines += ["", f"On an HTTP error: {dialect.on_error}.", ""]
    lines += ["| parameter | default | what it says |", "|---|---|---|"]
    return [*lines, *(_described(parameter) for parameter in dialect.parameters), _PICK]


_PICK = "| `item.<field>` |  | Path in the request whose value becomes this field of the item. |"


def _described(parameter: Parameter) -> str:
    default = f"`{parameter.default}`" if parameter.default else ""
    return f"| `{parameter.name}` | {default} | {parameter.meaning} |"
