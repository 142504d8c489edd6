"""A scripted HTTP/1.1 server for endpoint tests, on a loopback address of its own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

Handler = Callable[["Request", asyncio.StreamWriter], Coroutine[Any, Any, None]]


@dataclass
class Request:
    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Server:
    """Answers every request with the next handler; the last one stays."""

    script: list[Handler]
    port: int = 0
    connections: int = 0
    gone: int = 0
    requests: list[Request] = field(default_factory=list)
    asked: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/grade"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                first, *lines = head.decode().split("\r\n")
                raw = dict(line.split(": ", 1) for line in lines if line)
                headers = {name.lower(): value for name, value in raw.items()}
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                request = Request(first.split()[1], headers, body)
                self.requests.append(request)
                self.asked.set()
                handler = self.script.pop(0) if len(self.script) > 1 else self.script[0]
                work = asyncio.ensure_future(handler(request, writer))
                watch = asyncio.ensure_future(reader.read(1))
                await asyncio.wait({work, watch}, return_when=asyncio.FIRST_COMPLETED)
                if not work.done():
                    self.gone += 1
                    work.cancel()
                    return
                watch.cancel()
                await asyncio.gather(work, watch, return_exceptions=True)
                if writer.is_closing():
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


def reply(
    status: int, body: bytes = b"", headers: dict[str, str] | None = None, *, pause_s: float = 0
) -> Handler:
    """Answer with these bytes."""

    async def handle(_: Request, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(pause_s)
        lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        await writer.drain()

    return handle


def score(value: float, *, pause_s: float = 0) -> Handler:
    return reply(200, json.dumps({"score": value}).encode(), pause_s=pause_s)


async def hang_up(_: Request, writer: asyncio.StreamWriter) -> None:
    """Close the connection without an answer."""
    writer.close()


async def half(_: Request, writer: asyncio.StreamWriter) -> None:
    """Promise more than is sent."""
    writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"sc')
    await writer.drain()
    writer.close()


async def garbage(_: Request, writer: asyncio.StreamWriter) -> None:
    writer.write(b"\x00\x01 this is no HTTP\r\n\r\n")
    await writer.drain()
    writer.close()


async def flood(_: Request, writer: asyncio.StreamWriter) -> None:
    """Stream without an end and without a length."""
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        writer.write(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")
        await writer.drain()


@asynccontextmanager
async def running(*script: Handler) -> AsyncIterator[Server]:
    server = Server(list(script))
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()
        await listener.wait_closed()
