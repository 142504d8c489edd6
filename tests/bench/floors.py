"""The applications that the service is measured against.

Each function is a factory for uvicorn. The raw ones say what HTTP, or HTTP and JSON, cost on this
machine; the FastAPI one is what one would write without a grader service, and has neither keys nor
request ids, metrics or an access log.
"""

from __future__ import annotations

import gc
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import msgspec
from fastapi import FastAPI
from pydantic import BaseModel

_Message: TypeAlias = dict[str, Any]
_Receive: TypeAlias = Callable[[], Awaitable[_Message]]
_Send: TypeAlias = Callable[[_Message], Awaitable[None]]
_App: TypeAlias = Callable[[_Message, _Receive, _Send], Awaitable[None]]


class _Row(msgspec.Struct):
    item: dict[str, Any]
    model_sample: str


class _Rows(msgspec.Struct):
    rows: list[_Row]


class _Result(msgspec.Struct):
    reward: float
    ok: bool
    passed: bool


_SURE = _Result(reward=1.0, ok=True, passed=True)


def echo() -> _App:
    """Return an application that sends every body back."""
    return _raw(lambda body: body)


def compare() -> _App:
    """Return an application that decodes a row, compares, and encodes a result."""
    decode = msgspec.json.Decoder(_Row).decode
    encode = msgspec.json.Encoder().encode

    def answer(body: bytes) -> bytes:
        if not body:
            return b""
        row = decode(body)
        same = row.model_sample == row.item["reference_answer"]
        return encode(_Result(reward=1.0 if same else 0.0, ok=True, passed=same))

    return _raw(answer)


def decode_encode() -> _App:
    """Return an application that decodes a batch and encodes as many results, without grading."""
    decode = msgspec.json.Decoder(_Rows).decode
    encode = msgspec.json.Encoder().encode

    def answer(body: bytes) -> bytes:
        return encode({"results": [_SURE] * len(decode(body).rows)}) if body else b""

    return _raw(answer)


def _raw(answer: Callable[[bytes], bytes]) -> _App:
    """Return an ASGI application that answers a whole body, with the service's own GC setting."""

    async def app(scope: _Message, receive: _Receive, send: _Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        message = await receive()
        body = message.get("body", b"")
        if message.get("more_body", False):
            parts = [body]
            while message.get("more_body", False):
                message = await receive()
                parts.append(message.get("body", b""))
            body = b"".join(parts)
        payload = answer(body)
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(payload)),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": payload})

    return app


async def _lifespan(receive: _Receive, send: _Send) -> None:
    await receive()
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})


class _RowModel(BaseModel):
    item: dict[str, Any]
    model_sample: str


class _ResultModel(BaseModel):
    reward: float
    ok: bool
    passed: bool


class _RowsModel(BaseModel):
    rows: list[_RowModel]


class _ResultsModel(BaseModel):
    results: list[_ResultModel]


def _graded(row: _RowModel) -> _ResultModel:
    same = row.model_sample == row.item["reference_answer"]
    return _ResultModel(reward=1.0 if same else 0.0, ok=True, passed=same)


def fastapi() -> FastAPI:
    """Return a FastAPI application with the same comparison, for one row and for many."""
    app = FastAPI()

    @app.post("/score")
    async def score(row: _RowModel) -> _ResultModel:
        return _graded(row)

    @app.post("/score/batch")
    async def batch(rows: _RowsModel) -> _ResultsModel:
        return _ResultsModel(results=[_graded(row) for row in rows.rows])

    return app
