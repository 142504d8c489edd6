"""Rewards in trainers' own formats: against the native route, and against a bare FastAPI endpoint.

All bodies are of 1,024 bytes and ask for the same comparison. The FastAPI application is what one
would write for one trainer: pydantic models, the comparison, and nothing around it.
"""

from __future__ import annotations

from typing import Any

import msgspec
from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict

from tests.bench import traffic
from tests.bench.load import Request, interleaved
from tests.bench.rows import Row, at_least, at_most, figure, ratios
from tests.bench.servers import uvicorn

BYTES = 1024
ANSWER = "C"
_REWARDS = "/v1/graders/exact/versions/1/rewards/"
_PATHS = {
    "openrlhf": f"{_REWARDS}openrlhf?label=reference_answer",
    "slime": f"{_REWARDS}slime?label=reference_answer",
    "nemo-gym": f"{_REWARDS}nemo-gym/verify",
}


def body(dialect: str) -> bytes:
    """Return a request of a dialect, its prompt long enough for `BYTES` bytes."""
    empty = msgspec.json.encode(_request(dialect, ""))
    copies = 2 if dialect == "openrlhf" else 1  # the prompt also stands in the query
    return msgspec.json.encode(_request(dialect, "x" * ((BYTES - len(empty)) // copies)))


def _request(dialect: str, prompt: str) -> dict[str, Any]:
    if dialect == "openrlhf":
        return {"query": [f"{prompt}{ANSWER}</s>"], "prompts": [prompt], "labels": [ANSWER]}
    if dialect == "slime":
        return {"prompt": prompt, "response": f"{ANSWER}</s>", "label": ANSWER}
    part = {"type": "output_text", "text": ANSWER, "annotations": []}
    message = {"type": "message", "id": "msg_1", "role": "assistant", "content": [part]}
    response = {"id": "resp_1", "created_at": 1, "model": "m", "object": "response"}
    rest = {"parallel_tool_calls": True, "tool_choice": "auto", "tools": []}
    return {
        "reference_answer": ANSWER,
        "responses_create_params": {"input": [{"role": "user", "content": prompt}]},
        "response": {**response, "output": [message], **rest},
    }


class _OpenRLHF(BaseModel):
    query: list[str]
    prompts: list[str]
    labels: list[str]


class _Slime(BaseModel):
    prompt: str
    response: str
    label: str


class _Response(BaseModel):
    model_config = ConfigDict(extra="allow")
    output: list[dict[str, Any]]


class _NeMoGym(BaseModel):
    model_config = ConfigDict(extra="allow")
    reference_answer: str
    responses_create_params: dict[str, Any]
    response: _Response


class _NeMoGymReward(_NeMoGym):
    reward: float


def bare() -> FastAPI:
    """Return an application with one endpoint a trainer and nothing else."""
    app = FastAPI()

    @app.post("/openrlhf")
    async def openrlhf(asked: _OpenRLHF) -> dict[str, list[float]]:
        rows = zip(asked.query, asked.prompts, asked.labels, strict=True)
        found = [
            query[len(prompt) :].removesuffix("</s>") == label for query, prompt, label in rows
        ]
        return {"rewards": [float(same) for same in found]}

    @app.post("/slime")
    async def slime(asked: _Slime) -> float:
        return float(asked.response.removesuffix("</s>") == asked.label)

    @app.post("/nemo-gym")
    async def nemo_gym(asked: _NeMoGym) -> _NeMoGymReward:
        text = asked.response.output[-1]["content"][0]["text"]
        reward = float(text == asked.reference_answer)
        return _NeMoGymReward(**asked.model_dump(), reward=reward)

    return app


def run(rounds: int) -> list[Row]:
    """Compare each dialect with both, at 32 connections."""
    native = traffic.single()
    requests = {
        name: Request(path=path, body=body(name), headers=traffic.HEADERS)
        for name, path in _PATHS.items()
    }
    with traffic.service() as service, uvicorn("tests.bench.dialects:bare") as floor:
        measured = interleaved(
            (
                (service, native),
                *((service, request) for request in requests.values()),
                *(
                    (floor, Request(path=f"/{name}", body=body(name), headers={}))
                    for name in requests
                ),
            ),
            rounds=rounds,
            connections=32,
        )
    own, *rest = measured
    rows: list[Row] = []
    for index, name in enumerate(requests):
        dialect, fastapi = rest[index], rest[index + len(requests)]
        rows += [
            at_most(1.3, f"{name}: own / native score", ratios(dialect, own)),
            at_least(1.0, f"{name}: bare FastAPI / own", ratios(fastapi, dialect)),
            figure(f"{name}: own", dialect, "µs CPU"),
        ]
    return rows
