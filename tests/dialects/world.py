"""What the tests of dialects share: one grader of each kind and the requests of each caller."""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import msgspec

from graders.ports import Ports, SandboxResult
from service.dialects import DIALECTS
from service.dialects.contract import Options, Reading
from service.dialects.mapping import parse
from tests.api.world import CODED, EXACT, JUDGED, PARTS, write_definitions
from tests.fakes import FakeJudge, FakeSandbox, verdict

# Where each dialect's example has its label; in lists, in their only element.
LABEL_AT = {
    "openrlhf": "labels",
    "slime": "label",
    "nemo-gym": "label",
    "azure-endpoint": "item.label",
    "aws": "reference_answer",
    "google": "example.references.label",
    "promptfoo": "context.vars.label",
    "langfuse": "payload.experiment.itemExpectedOutput",
    "eval-protocol": "ground_truth",
    "roll": "reward_info.ground_truth",
}
MISSING = {**EXACT, "reference": "{{item.nowhere}}"}
ASKING = {**JUDGED, "input": [{"role": "user", "content": "Grade {{sample.output_text}}"}]}


def halves(bad: dict[str, Any]) -> dict[str, Any]:
    """Return a ``multi`` whose formula is worth 0.6 when only ``bad`` fails."""
    graders = {"good": EXACT, "bad": bad}
    formula = "0.6 * good + 0.4 * bad"
    return {"type": "multi", "name": "halves", "graders": graders, "calculate_output": formula}


GRADERS: dict[str, list[dict[str, Any]]] = {
    "exact": [EXACT],
    "parts": [PARTS],
    "judged": [ASKING],
    "coded": [CODED],
    "lyon": [{**EXACT, "reference": "Lyon"}],
    "missing": [MISSING],
    "half-judged": [halves(ASKING)],
    "half-coded": [halves(CODED)],
    "half-missing": [halves(MISSING)],
    "label": [{**EXACT, "reference": "{{item.label}}"}],
}


def definitions(directory: Path) -> Path:
    """Write the graders of these tests."""
    return write_definitions(directory, GRADERS)


def takes_label(dialect: str) -> bool:
    """Return whether the dialect has a place of its own for a label."""
    return any(parameter.name == "label" for parameter in DIALECTS[dialect].parameters)


def labelled(dialect: str) -> str:
    """Return the query that puts the label of the example into ``item.answer``."""
    return "label=answer" if takes_label(dialect) else f"item.answer={LABEL_AT[dialect]}"


def unmapped(grader: str, dialect: str) -> str:
    """Return the path of a dialect for graders that read ``item.label``."""
    query = "?label=label" if takes_label(dialect) else ""
    return f"/v1/graders/{grader}/versions/1/rewards/{dialect}{query}"


def unlabelled(dialect: str, *instead: Any) -> Any:
    """Return the example without its label, or with ``instead`` in its place."""
    body: Any = copy.deepcopy(DIALECTS[dialect].example)
    *steps, last = LABEL_AT[dialect].split(".")
    place = body[0] if isinstance(body, list) else body
    for step in steps:
        place = place[step]
    was = place.pop(last)
    if instead:
        place[last] = [*instead] if isinstance(was, list) else instead[0]
    return body


def path(grader: str, dialect: str, query: str = "", version: str = "1") -> str:
    """Return the path of a dialect, with the label mapped to ``item.answer``."""
    parameters = "&".join(part for part in (labelled(dialect), query) if part)
    return f"/v1/graders/{grader}/versions/{version}/rewards/{dialect}?{parameters}"


def ports(
    judge: Callable[[Any], Any] = lambda _: verdict(0.75),
    sandbox: Callable[[Any], Any] = lambda _: SandboxResult(outcome="value", value=0.5),
) -> Ports:
    """Return ports that answer from these scripts."""
    return Ports(judge=FakeJudge(judge), sandbox=FakeSandbox(sandbox))


async def ask(
    api: httpx.AsyncClient, dialect: str, url: str, body: Any = None
) -> tuple[int, Any, httpx.Response]:
    """Return status, answer and response as the caller's client ends up with them.

    ROLL's is polled for until it is no longer running.
    """
    content = json.dumps(DIALECTS[dialect].example if body is None else body)
    headers = {"content-type": "application/json"}
    answer = await api.post(url, content=content, headers=headers)
    if dialect == "roll" and answer.status_code == 200:
        question = {"reward_request_id": answer.json()["reward_request_id"]}
        for _ in range(500):
            answer = await api.request("GET", url.partition("?")[0], json=question)
            if answer.json()["errcode"] != 1:
                break
            await asyncio.sleep(0.01)
    return answer.status_code, answer.json() if answer.content else None, answer


def reading(dialect: str, body: Any, query: str = "") -> Reading:
    """Return what ``dialect`` reads from ``body``, without HTTP."""
    known = DIALECTS[dialect]
    raw = msgspec.json.encode(body)
    return known.read(msgspec.json.decode(raw, type=known.request), options(dialect, query), raw)


def options(dialect: str, query: str = "") -> Options:
    """Return the options of a query string."""
    return parse(DIALECTS[dialect], query)


def row(dialect: str, body: Any, query: str = "") -> tuple[dict[str, Any], dict[str, Any]]:
    """Return item and ``sample`` namespace of the only row."""
    ((item, sample),) = reading(dialect, body, query).rows
    return item, sample.namespace
