"""A scripted OpenAI-compatible upstream over real HTTP: the only thing tests fake.

``Upstream(script)`` listens on a free loopback port. The script gets each request and says what
happens: an answer after a while, an error status, silence, a dropped connection, bytes that are
not HTTP. Without a script every judge gets ``{"steps": [], "result": 1}``.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections import Counter
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Literal, Self, cast

import msgspec

_MARKER = re.compile(r"\[\[judge:([^\]]*)\]\]")
_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)", re.IGNORECASE)
_REASONS = {200: "OK", 400: "Bad Request", 401: "Unauthorized", 429: "Too Many Requests"}


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """One request that arrived."""

    method: str
    path: str
    headers: dict[str, str]
    raw: bytes
    number: int

    @property
    def body(self) -> Any:
        """The JSON body."""
        return msgspec.json.decode(self.raw) if self.raw else None

    @property
    def text(self) -> str:
        """Every text of the prompt, joined."""
        found: list[str] = []
        for message in self.body.get("messages") or self.body.get("input") or ():
            content = message["content"] if isinstance(message, dict) else message
            parts = [content] if isinstance(content, str) else [p.get("text", "") for p in content]
            found.extend(parts)
        return "\n".join(found)

    @property
    def marker(self) -> str | None:
        """What stands in the last ``[[judge:…]]`` of the prompt."""
        found = _MARKER.findall(self.text)
        return found[-1] if found else None


class Says(msgspec.Struct, frozen=True, kw_only=True):
    """What the upstream does with one request."""

    action: Literal["answer", "hang", "drop", "drop_midway", "garbage"] = "answer"
    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = {}
    delay_s: float = 0.0


Script = Callable[[Asked], Says]


def completion(
    content: str | None = '{"steps": [], "result": 1}',
    *,
    refusal: str | None = None,
    finish_reason: str = "stop",
    model: str = "judge-2026-01-01",
    usage: tuple[int, int, int] = (100, 20, 0),
    delay_s: float = 0.0,
) -> Says:
    """Return a chat completion; ``usage`` is prompt, completion and cached tokens."""
    prompt, written, cached = usage
    message = {"role": "assistant", "content": content, "refusal": refusal}
    body = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": model,
        "choices": [{"index": 0, "message": message, "finish_reason": finish_reason}],
        "usage": {
            "prompt_tokens": prompt,
            "completion_tokens": written,
            "total_tokens": prompt + written,
            "prompt_tokens_details": {"cached_tokens": cached},
        },
    }
    return Says(body=msgspec.json.encode(body), delay_s=delay_s)


def response(
    content: str | None = '{"steps": [], "result": 1}',
    *,
    refusal: str | None = None,
    incomplete: str | None = None,
    model: str = "judge-2026-01-01",
    usage: tuple[int, int, int] = (100, 20, 0),
) -> Says:
    """Return an answer of the Responses API, with a reasoning item ahead of the message."""
    prompt, written, cached = usage
    parts: list[dict[str, Any]] = []
    if content is not None:
        parts.append({"type": "output_text", "text": content, "annotations": []})
    if refusal is not None:
        parts.append({"type": "refusal", "refusal": refusal})
    body = {
        "id": "resp_1",
        "object": "response",
        "status": "incomplete" if incomplete else "completed",
        "incomplete_details": {"reason": incomplete} if incomplete else None,
        "model": model,
        "output": [
            {"type": "reasoning", "id": "rs_1", "summary": []},
            {"type": "message", "id": "msg_1", "role": "assistant", "content": parts},
        ],
        "usage": {
            "input_tokens": prompt,
            "output_tokens": written,
            "total_tokens": prompt + written,
            "input_tokens_details": {"cached_tokens": cached},
            "output_tokens_details": {"reasoning_tokens": 0},
        },
    }
    return Says(body=msgspec.json.encode(body))


def error(
    status: int, *, code: str | None = None, message: str = "no", headers: Mapping[str, str] = {}
) -> Says:
    """Return an error answer in OpenAI's shape."""
    inner = {"message": message, "type": "some_error", "param": None, "code": code}
    return Says(status=status, body=msgspec.json.encode({"error": inner}), headers=dict(headers))


def embeddings(asked: Asked, *, size: int = 8) -> Says:
    """Return vectors that depend on nothing but the texts."""
    data = [
        {"object": "embedding", "index": i, "embedding": _vector(text, size)}
        for i, text in enumerate(asked.body["input"])
    ]
    body = {
        "object": "list",
        "data": data,
        "model": "embedding-1",
        "usage": {"prompt_tokens": 7, "total_tokens": 7},
    }
    return Says(body=msgspec.json.encode(body))


def of_vector(reply: Mapping[str, Any] | None) -> Says:
    """Return what ``judge_reply`` of a conformance vector asks for."""
    if reply is None:
        return error(500, message="no model is asked here")
    if "http_status" in reply:
        return error(reply["http_status"], headers={"retry-after-ms": "1"})
    return completion(
        reply.get("content"),
        refusal=reply.get("refusal"),
        finish_reason=reply.get("finish_reason", "stop"),
    )


def _vector(text: str, size: int) -> list[float]:
    digest = hashlib.sha256(text.encode()).digest()
    return [byte / 255 for byte in digest[:size]]


class Upstream:
    """The server; use it as an async context manager.

    Attributes:
        asked: Every request that arrived, in order.
        in_flight: Requests being answered.
        most_in_flight: The most of them at one time.
        cancelled: Requests whose caller hung up before the answer.
    """

    def __init__(self, script: Script | None = None, *, keep: bool = True) -> None:
        """Prepare to answer by ``script``; ``keep`` remembers the requests."""
        self.script: Script = script or (lambda asked: completion())
        self.asked: list[Asked] = []
        self.count = 0
        self.in_flight = 0
        self.most_in_flight = 0
        self.cancelled = 0
        self.keep = keep
        self._server: asyncio.Server | None = None
        self._port = 0
        self._links: set[_Link] = set()

    @property
    def url(self) -> str:
        """Base URL up to and including ``/v1``."""
        return f"http://127.0.0.1:{self._port}/v1"

    @property
    def prompts(self) -> Counter[str]:
        """How often each prompt was asked."""
        return Counter(asked.text for asked in self.asked)

    async def __aenter__(self) -> Self:
        """Listen."""
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Hang up on everybody."""
        await self.stop()

    async def reached(self, count: int) -> None:
        """Wait until ``count`` requests have arrived."""
        async with asyncio.timeout(30):
            while self.count < count:  # noqa: ASYNC110 - a test double need not be woken
                await asyncio.sleep(0.01)

    async def start(self, port: int = 0) -> None:
        """Listen on ``port``, or on a free one."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Link(self), "127.0.0.1", port)
        self._port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Stop listening and hang up."""
        if self._server is not None:
            self._server.close()
        for link in list(self._links):
            link.hang_up()
        await asyncio.sleep(0)


class _Link(asyncio.Protocol):
    """One connection."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._buffer = b""
        self._transport: asyncio.Transport | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass of it
        self._upstream._links.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._upstream._links.discard(self)
        for task in self._tasks:
            task.cancel()

    def hang_up(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while True:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            head = self._buffer[:end]
            length = _LENGTH.search(head)
            stop = end + 4 + (int(length[1]) if length else 0)
            if len(self._buffer) < stop:
                return
            raw, self._buffer = self._buffer[end + 4 : stop], self._buffer[stop:]
            self._answer(head, raw)

    def _answer(self, head: bytes, raw: bytes) -> None:
        first, *lines = head.decode("latin-1").split("\r\n")
        method, path, _ = first.split(" ", 2)
        pairs = (line.partition(":") for line in lines)
        headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
        upstream = self._upstream
        upstream.count += 1
        asked = Asked(method=method, path=path, headers=headers, raw=raw, number=upstream.count)
        if upstream.keep:
            upstream.asked.append(asked)
        upstream.in_flight += 1
        upstream.most_in_flight = max(upstream.most_in_flight, upstream.in_flight)
        says = upstream.script(asked)
        if says.action == "answer" and not says.delay_s:
            upstream.in_flight -= 1
            self._write(says)
            return
        task = asyncio.create_task(self._later(says))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _later(self, says: Says) -> None:
        try:
            await asyncio.sleep(3600 if says.action == "hang" else says.delay_s)
        except asyncio.CancelledError:
            self._upstream.cancelled += 1
            raise
        finally:
            self._upstream.in_flight -= 1
        assert self._transport is not None
        match says.action:
            case "drop":
                self._transport.abort()
            case "drop_midway":
                self._transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: 900\r\n\r\n{")
                self._transport.close()
            case "garbage":
                self._transport.write(b"\x00\x01 this is not HTTP \xff\r\n\r\n")
                self._transport.close()
            case _:
                self._write(says)

    def _write(self, says: Says) -> None:
        assert self._transport is not None
        lines = [
            f"HTTP/1.1 {says.status} {_REASONS.get(says.status, 'Status')}",
            "content-type: application/json",
            f"content-length: {len(says.body)}",
            *(f"{name}: {value}" for name, value in says.headers.items()),
        ]
        self._transport.write("\r\n".join(lines).encode() + b"\r\n\r\n" + says.body)
