"""The mixed workload, every reward of it known by construction, and what an answer is worth.

Of twenty calls twelve compare strings (two of them are batches), five run Python, three ask the
judge. Expected rewards follow from how the samples are made; nothing of ours computes them.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator, Mapping
from typing import Any, Literal, TypeAlias

import msgspec

from tests.fakes_upstream import Asked, Says, completion, error
from tests.sandbox import image

Kind: TypeAlias = Literal["string", "python", "judge"]
KINDS: tuple[Kind, ...] = ("string", "python", "judge")
BATCH_ROWS = 8

_TEXT = "{{sample.output_text}}"
_EXACT = {
    "type": "string_check",
    "name": "exact",
    "operation": "eq",
    "input": _TEXT,
    "reference": "{{item.answer}}",
}
_NEAR = {
    "type": "text_similarity",
    "name": "near",
    "evaluation_metric": "rouge_l",
    "input": _TEXT,
    "reference": "{{item.answer}}",
}
_CODED = {
    "type": "python",
    "name": "coded",
    "image_tag": image.TAG,
    "source": "def grade(sample, item):\n"
    "    return (len(sample['output_text']) * item['factor'] % 101) / 101\n",
}
_JUDGED = {
    "type": "score_model",
    "name": "judged",
    "model": "judge",
    "range": [0, 1],
    "input": [{"role": "user", "content": "Grade {{sample.output_text}} [[judge:{{item.score}}]]"}],
}
_BOTH = {
    "type": "multi",
    "name": "both",
    "graders": {"exact": _EXACT, "judged": _JUDGED},
    "calculate_output": "0.25 * exact + 0.75 * judged",
}
DEFINITIONS: dict[str, dict[str, Any]] = {
    "exact": _EXACT,
    "near": _NEAR,
    "coded": _CODED,
    "judged": _JUDGED,
    "both": _BOTH,
}

_BLOCK = ("exact",) * 5 + ("near",) * 5 + ("batch",) * 2 + ("coded",) * 5 + ("judged",) * 2
_MIX = (*_BLOCK, "both")
_WORDS = 40
_REPEATED = 500  # every second judge question is one of so many, so that the cache has work
_RETRYABLE = {429, 503}
_BALANCERS = {502, 503, 504}


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """One request.

    Attributes:
        expected: The reward of each row; one of a single score.
    """

    kind: Kind
    path: str
    body: bytes
    expected: tuple[float, ...]


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What an answer is worth.

    Attributes:
        verdict: ``right``; ``retryable``: no reward, and said in a way that clients retry;
            ``wrong``: anything else.
        what: For reports.
    """

    verdict: Literal["right", "retryable", "wrong"]
    what: str = ""


def calls(seed: int) -> Iterator[Call]:
    """Yield calls for ever; the mix holds in every twenty of them."""
    rng = random.Random(seed)
    while True:
        block = list(_MIX)
        rng.shuffle(block)
        for name in block:
            yield _CALLS[name](rng)


def judged_by_prompt(asked: Asked) -> Says:
    """Answer what ``[[judge:…]]`` in the prompt says, as the judge model."""
    marker = asked.marker
    if marker is None:
        return error(400, message="no marker")
    return completion(json.dumps({"steps": [], "result": float(marker)}))


def _score(kind: Kind, name: str, item: dict[str, Any], text: str, reward: float) -> Call:
    body = msgspec.json.encode({"item": item, "model_sample": text})
    path = f"/v1/graders/{name}/versions/1/score"
    return Call(kind=kind, path=path, body=body, expected=(reward,))


def _exact_row(rng: random.Random) -> tuple[dict[str, Any], str, float]:
    answer = f"answer {rng.randrange(10**9)}"
    if rng.random() < 0.5:
        return {"answer": answer}, answer, 1.0
    return {"answer": answer}, f"{answer} or so", 0.0


def _exact(rng: random.Random) -> Call:
    return _score("string", "exact", *_exact_row(rng))


def _near(rng: random.Random) -> Call:
    """Texts of different words, the first ``same`` alike: ROUGE-L is the share of those."""
    same, number = rng.randrange(_WORDS + 1), rng.randrange(10**6)
    reference = [f"w{number}x{index}" for index in range(_WORDS)]
    candidate = reference[:same] + [f"v{number}x{index}" for index in range(same, _WORDS)]
    item = {"answer": " ".join(reference)}
    return _score("string", "near", item, " ".join(candidate), same / _WORDS)


def _batch(rng: random.Random) -> Call:
    rows = [_exact_row(rng) for _ in range(BATCH_ROWS)]
    body = {"rows": [{"item": item, "model_sample": text} for item, text, _ in rows]}
    return Call(
        kind="string",
        path="/v1/graders/exact/versions/1/score/batch",
        body=msgspec.json.encode(body),
        expected=tuple(reward for _, _, reward in rows),
    )


def _coded(rng: random.Random) -> Call:
    length, factor = rng.randrange(1, 400), rng.randrange(1, 100)
    return _score("python", "coded", {"factor": factor}, "x" * length, length * factor % 101 / 101)


def _question(rng: random.Random) -> tuple[dict[str, Any], str, float]:
    number = rng.randrange(_REPEATED) if rng.random() < 0.5 else rng.randrange(10**9)
    score = number % 101 / 101
    return {"score": repr(score)}, f"answer {number}", score


def _judged(rng: random.Random) -> Call:
    item, text, score = _question(rng)
    return _score("judge", "judged", item, text, score)


def _both(rng: random.Random) -> Call:
    item, text, score = _question(rng)
    right = rng.random() < 0.5
    item["answer"] = text if right else "another"
    return _score("judge", "both", item, text, 0.25 * right + 0.75 * score)


_CALLS = {
    "exact": _exact,
    "near": _near,
    "batch": _batch,
    "coded": _coded,
    "judged": _judged,
    "both": _both,
}


def outcome(call: Call, status: int, headers: Mapping[str, str], body: bytes) -> Outcome:
    """Return what an answer to ``call`` is worth."""
    is_json = "json" in headers.get("content-type", "")
    if status == 200:
        return _graded(call, body)
    if not is_json and status in _BALANCERS:
        return Outcome(verdict="retryable", what=f"balancer {status}")
    what = f"{status} {body[:300]!r}"
    if not is_json or status not in _RETRYABLE or "retry-after" not in headers:
        return Outcome(verdict="wrong", what=what)
    problem = msgspec.json.decode(body)
    if problem["retryable"]:
        kind = problem["type"].rpartition(":")[2]
        return Outcome(verdict="retryable", what=f"{status} {kind}: {problem['detail']}"[:100])
    return Outcome(verdict="wrong", what=what)


def _graded(call: Call, body: bytes) -> Outcome:
    answer = msgspec.json.decode(body)
    rows = answer["results"] if len(call.expected) > 1 else [answer]
    if len(rows) != len(call.expected):
        return Outcome(verdict="wrong", what=f"{len(rows)} rows for {len(call.expected)}")
    retryable = ""
    for row, expected in zip(rows, call.expected, strict=True):
        if row["ok"] and math.isclose(row["reward"], expected, abs_tol=1e-9):
            continue
        if row["ok"] or not row["error"].get("retryable"):
            return Outcome(verdict="wrong", what=f"{call.path}: {row} instead of {expected}")
        retryable = f"row {row['error']['code']}"
    return Outcome(verdict="retryable" if retryable else "right", what=retryable)
