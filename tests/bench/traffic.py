"""The graders, rows and requests that the suites measure with; seeded, so runs are alike."""

from __future__ import annotations

import contextlib
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from tests.bench.load import Request
from tests.bench.servers import Server, gradekeeper

KEY = "gk-bench"
SCORE = "/v1/graders/exact/versions/1/score"
BATCH = "/v1/graders/exact/versions/1/score/batch"
ROUGE_BATCH = "/v1/graders/rouge/versions/1/score/batch"
HEADERS = {"Authorization": f"Bearer {KEY}"}

_GRADERS: dict[str, dict[str, Any]] = {
    "exact": {
        "type": "string_check",
        "name": "exact",
        "operation": "eq",
        "input": "{{sample.output_text}}",
        "reference": "{{item.reference_answer}}",
    },
    "rouge": {
        "type": "text_similarity",
        "name": "rouge",
        "evaluation_metric": "rouge_l",
        "input": "{{sample.output_text}}",
        "reference": "{{item.reference}}",
    },
    "judged": {
        "type": "score_model",
        "name": "judged",
        "model": "judge",
        "input": [{"role": "user", "content": "{{item.number}} {{sample.output_text}}"}],
    },
}
_WORDS = (
    *("answer", "because", "between", "careful", "certain", "clear", "company", "contract"),
    *("decided", "during", "every", "evidence", "follow", "general", "however", "include"),
    *("judge", "letter", "matter", "measure", "method", "notice", "number", "often", "order"),
    *("party", "people", "place", "point", "policy", "present", "process", "public", "question"),
    *("reason", "record", "remain", "report", "result", "return", "review", "second", "section"),
    *("several", "should", "simple", "still", "subject", "system", "their", "these", "thing"),
    *("though", "three", "through", "today", "under", "until", "value", "where", "which"),
    *("while", "within", "without", "would"),
)


@contextlib.contextmanager
def settings(**more: str) -> Iterator[dict[str, str]]:
    """Give settings, without their prefix: our graders, a key, metrics and the access log on."""
    with tempfile.TemporaryDirectory() as directory:
        for name, grader in _GRADERS.items():
            folder = Path(directory, name)
            folder.mkdir()
            (folder / "1.json").write_bytes(msgspec.json.encode(grader))
        yield {
            "DEFINITIONS": directory,
            "BUNDLED_DEFINITIONS": "false",
            "API_KEY": KEY,
            "ACCESS_LOG": "true",
            **more,
        }


@contextlib.contextmanager
def service(**more: str) -> Iterator[Server]:
    """Run the service with `settings`."""
    with settings(**more) as ours, gradekeeper(ours) as server:
        server.settle()
        yield server


def text(rng: random.Random, words: int) -> str:
    """Return ``words`` random words."""
    return " ".join(rng.choices(_WORDS, k=words))


def edited(rng: random.Random, original: str, share: float = 0.3) -> str:
    """Return ``original`` with about ``share`` of its words replaced."""
    words = original.split(" ")
    return " ".join(rng.choice(_WORDS) if rng.random() < share else word for word in words)


def row(rng: random.Random, size: int) -> dict[str, Any]:
    """Return a row of ``size`` bytes as JSON, shaped like those of published fine-tuning sets.

    Every second answer is right.
    """
    answer = rng.choice("ABCD")
    question = {"role": "user", "content": ""}
    item = {
        "id": f"row-{rng.randrange(10**6):06}",
        "messages": [{"role": "system", "content": "Answer with one letter."}, question],
        "choices": {letter: rng.choice(_WORDS) for letter in "ABCD"},
        "reference_answer": answer,
        "subject": rng.choice(_WORDS),
        "topic": rng.choice(_WORDS),
        "year": 2026,
    }
    fields = {"item": item, "model_sample": answer if rng.random() < 0.5 else "E"}
    missing = size - len(msgspec.json.encode(fields))
    question["content"] = text(rng, missing)[:missing]
    return fields


def single(path: str = SCORE) -> Request:
    """Return a request of one row of 1,024 bytes."""
    return Request(
        path=path, body=msgspec.json.encode(row(random.Random(7), 1024)), headers=HEADERS
    )


def batch(path: str = BATCH, *, rows: int = 1000) -> Request:
    """Return a request of ``rows`` rows of 411 bytes each."""
    rng = random.Random(7)
    body = msgspec.json.encode({"rows": [row(rng, 411) for _ in range(rows)]})
    return Request(path=path, body=body, headers=HEADERS)


def lines(*, rows: int, path: str = BATCH) -> Request:
    """Return the same rows as NDJSON."""
    rng = random.Random(7)
    body = b"".join(msgspec.json.encode(row(rng, 411)) + b"\n" for _ in range(rows))
    headers = {**HEADERS, "Content-Type": "application/x-ndjson"}
    return Request(path=path, body=body, headers=headers)
