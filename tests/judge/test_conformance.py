"""Judge vectors and cases through engine, adapter, official client and a scripted upstream."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from graders.engine import compile_grader
from graders.grade import ErrorFlags, error_flags
from graders.ports import Ports
from graders.sample import Sample
from service.judge import JudgeConfig, RetryPolicy
from tests.fakes_upstream import Asked, Says, Upstream, completion, of_vector, response
from tests.judge.conftest import MakeJudge
from tests.options import options

pytestmark = pytest.mark.conformance
VECTORS_FILE = Path(__file__).parents[1] / "conformance" / "vectors.jsonl"
CASES = Path(__file__).parents[2].parent / "shared" / "conformance" / "cases"
MISSING = "the conformance cases are not at hand"
OPTIONS = options()
ONCE = JudgeConfig(retry=RetryPolicy(attempts=1))
ROUTES: list[dict[str, str]] = [
    {},
    {"api": "responses"},
    {"structured_output": "json_object"},
    {"structured_output": "prompt"},
]


def uses(grader: Any, kinds: set[str]) -> bool:
    """Return whether a definition is of one of these types or holds one that is."""
    if isinstance(grader, dict):
        return grader.get("type") in kinds or any(uses(part, kinds) for part in grader.values())
    return isinstance(grader, list) and any(uses(part, kinds) for part in grader)


def judged() -> list[Any]:
    """Return the vectors in which a judge is asked and no user code runs."""
    lines = VECTORS_FILE.read_text(encoding="utf-8").splitlines()
    found = [
        vector
        for vector in map(json.loads, lines)
        if vector["call"] in {"run", "evals"}
        and vector.get("judge_reply")
        and vector["expected"]["status"] == 200
        and not uses(vector["grader"], {"python", "endpoint"})
    ]
    return [pytest.param(vector, id=vector["id"]) for vector in found]


def says(reply: dict[str, Any], asked: Asked) -> Says:
    """Return ``reply`` in the shape of the API that was asked."""
    if asked.path.endswith("/chat/completions") or "http_status" in reply:
        return of_vector(reply)
    cut = "max_output_tokens" if reply.get("finish_reason") == "length" else None
    return response(reply.get("content"), refusal=reply.get("refusal"), incomplete=cut)


def script_of(vector: dict[str, Any]) -> Any:
    """Return the upstream's script; several judges are told apart by a marker in their prompt."""

    def script(asked: Asked) -> Says:
        reply = vector["judge_reply"]
        return says(reply["by_grader"][asked.marker] if "by_grader" in reply else reply, asked)

    return script


def marked(vector: dict[str, Any]) -> Any:
    """Return the definition with a marker at the end of each judge's prompt."""
    grader = json.loads(json.dumps(vector["grader"]))
    if "by_grader" in vector["judge_reply"]:
        for name, part in grader["graders"].items():
            for message in part.get("messages") or part.get("input") or ():
                if isinstance(message, dict) and isinstance(message.get("content"), str):
                    message["content"] += f" [[judge:{name}]]"
    return grader


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: "-".join(route.values()) or "default")
@pytest.mark.parametrize("vector", judged())
async def test_vector(
    upstream: Upstream, make_judge: MakeJudge, vector: dict[str, Any], route: dict[str, str]
) -> None:
    expected = vector["expected"]
    upstream.script = script_of(vector)
    grader = compile_grader(marked(vector), OPTIONS, purpose="run")
    ports = Ports(judge=make_judge(ONCE, **route))
    grade = await grader.grade(vector.get("item") or {}, Sample(vector["model_sample"]), ports)
    assert grade.reward == pytest.approx(expected["reward"], abs=vector["tolerance"])
    flags = error_flags(grade.failures, ErrorFlags)
    raised = {name for name in flags.__struct_fields__ if getattr(flags, name) is True}
    flag = expected["flag"]
    assert raised == ({flag} if isinstance(flag, str) else set(flag or ()))
    assert upstream.count == expected.get("judge_calls", upstream.count)
    # Without its variables a prompt is not sent.
    assert (upstream.count == 0) is (flag == "invalid_variable_error")


def needing_a_judge() -> list[Any]:
    """Return the runs of real definitions that have a published judge score.

    Of the published runs of a multi, none asks a judge; `tests/sandbox/test_vectors.py` has them.
    """
    found = [
        pytest.param(case, run, id=f"{case['id']}-{number}")
        for case in (json.loads(p.read_text("utf-8")) for p in sorted(CASES.glob("*.json")))
        for number, run in enumerate(case["runs"])
        if run["status"] == "needs"
        and uses(case["grader"], {"score_model", "label_model"})
        and run["expected"] is not None
    ]
    return found or [pytest.param(None, None, marks=pytest.mark.skip(reason=MISSING))]


def verdict_of(grader: dict[str, Any], score: float) -> object:
    """Return the ``result`` that stands for ``score``."""
    if grader["type"] == "score_model":
        return score
    passing = set(grader["passing_labels"])
    return next(label for label in grader["labels"] if (label in passing) == (score == 1.0))


@pytest.mark.skipif(not CASES.exists(), reason=MISSING)
def test_every_published_judge_score_is_run() -> None:
    kinds = [param.values[0]["type"] for param in needing_a_judge()]
    assert (kinds.count("score_model"), kinds.count("label_model")) == (25, 2)


@pytest.mark.parametrize(("case", "run"), needing_a_judge())
async def test_published_score(
    upstream: Upstream, make_judge: MakeJudge, case: dict[str, Any], run: dict[str, Any]
) -> None:
    verdict = json.dumps({"steps": [], "result": verdict_of(case["grader"], run["expected"])})
    upstream.script = lambda asked: completion(verdict)
    grader = compile_grader(case["grader"], OPTIONS, purpose="run")
    sample = Sample.from_object(run["sample"]) if "sample" in run else Sample(run["model_sample"])
    grade = await grader.grade(run["item"], sample, Ports(judge=make_judge()))
    low, high = case["grader"].get("range") or (0.0, 1.0)
    assert grade.failures == ()
    assert grade.reward == pytest.approx(min(max(run["expected"], low), high), abs=1e-9)
    assert grade.sampled_model_name == "judge-2026-01-01"
    assert "{{" not in upstream.asked[0].text
