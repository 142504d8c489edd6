"""Batches as NDJSON: rows are graded as they arrive, results leave as they complete.

`Stream` takes lines as well, `RowStream` has its rows from a JSON body. A `Stream` reads
the request itself, because Litestar's own streaming loses body chunks when a handler reads and
writes at once (spec/performance.md §2.4). Results wait in a bounded outbox while a client that
sends before it reads is still sending, so neither side waits for the other for ever.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any, TypeAlias

import msgspec
from litestar.exceptions import ClientException
from litestar.response.base import ASGIResponse
from litestar.types import Receive, Scope, Send

from graders.errors import RowError
from service.grading import (
    Row,
    RowGrader,
    in_turn,
    indexed,
    next_block,
    sample_of,
    unless_gone,
)
from service.lean import ClientGoneError, decode
from service.wire import RowResult, ScoreRequest, StreamEnd

NDJSON = "application/x-ndjson"
NO_GROUPS = "a stream has no groups, which need all of their rows; send and accept JSON"

_MAX_WAITING_BYTES = (
    16 * 1024 * 1024
)  # results a client may leave unread before grading waits for it
_TURN_ROWS = 512  # of a JSON batch, to be sent together
_encode = msgspec.json.Encoder().encode
_encode_lines = msgspec.json.Encoder().encode_lines


Gone: TypeAlias = Callable[[], Coroutine[Any, Any, None]]


class Outbox:
    """Sends in the background; `room` waits while too much is unsent."""

    def __init__(self, send: Send) -> None:
        """Send through ``send``."""
        self._send = send
        self._parts: list[bytes] = []
        self._waiting = 0
        self._work = asyncio.Event()
        self._progress = asyncio.Event()
        self._closed = False
        self._task = asyncio.ensure_future(self._run())

    def put(self, data: bytes) -> None:
        """Take ``data`` to send."""
        self._parts.append(data)
        self._waiting += len(data)
        self._work.set()

    async def room(self) -> None:
        """Return once less than the bound is unsent."""
        while self._waiting > _MAX_WAITING_BYTES and not self._task.done():
            self._progress.clear()
            await self._progress.wait()

    async def close(self) -> None:
        """Send the rest and end the body."""
        self._closed = True
        self._work.set()
        await self._task

    def drop(self) -> None:
        """Forget what is unsent: nobody reads it."""
        self._task.cancel()

    async def _run(self) -> None:
        try:
            await self._sending()
        finally:
            self._progress.set()

    async def _sending(self) -> None:
        while self._parts or not self._closed:
            if not self._parts:
                self._work.clear()
                await self._work.wait()
                continue
            data = b"".join(self._parts)
            self._parts.clear()
            await self._send({"type": "http.response.body", "body": data, "more_body": True})
            self._waiting -= len(data)
            self._progress.set()
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})


class Lines:
    """The lines of a request body as they arrive; knows when the client is gone."""

    def __init__(self, receive: Receive, max_line_bytes: int) -> None:
        """Read from ``receive``."""
        self._receive = receive
        self._max = max_line_bytes
        self._rest = b""
        self._ended = asyncio.Event()

    async def _chunk(self) -> bytes:
        """Return the next bytes of the body and note when they were the last."""
        message: Any = await self._receive()
        if message["type"] == "http.disconnect":
            self._ended.set()
            raise ClientGoneError
        if not message.get("more_body", False):
            self._ended.set()
        body: bytes = message.get("body", b"")
        return body

    async def portions(self) -> AsyncIterator[list[bytes]]:
        """Yield complete lines in the portions in which they arrive; blank lines are left out.

        A line over the limit comes cut, one byte longer than the limit.

        Raises:
            ClientGoneError: The client closed the connection before the body was complete.
        """
        while not self._ended.is_set():
            *lines, self._rest = (self._rest + await self._chunk()).split(b"\n")
            if len(self._rest) > self._max:
                lines.append(self._rest[: self._max + 1])
                *more, self._rest = (await self._after_line()).split(b"\n")
                lines += more
            if self._ended.is_set():
                lines.append(self._rest)
            lines = [line for line in lines if line.strip()]
            if lines:
                yield lines

    async def _after_line(self) -> bytes:
        """Drop the rest of an overlong line; return what follows it."""
        newline, rest = b"", b""
        while not newline and not self._ended.is_set():
            _, newline, rest = (await self._chunk()).partition(b"\n")
        return rest

    async def until_gone(self) -> None:
        """Return when the client closes the connection, once nobody reads the body any more."""
        await self._ended.wait()
        while (await self._receive())["type"] != "http.disconnect":
            pass


class Stream(ASGIResponse):
    """Grades NDJSON in, NDJSON out."""

    __slots__ = ("_decoder", "_end", "_grader", "_max_line_bytes")

    def __init__(
        self,
        *,
        grader: RowGrader,
        decoder: msgspec.json.Decoder[Any],
        end: dict[str, Any],
        max_line_bytes: int,
    ) -> None:
        """Grade the lines of the body; ``end`` heads the last line of the answer."""
        self._grader = grader
        self._decoder = decoder
        self._end = end
        self._max_line_bytes = max_line_bytes
        self.status_code = 200

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI
        """Stream the results; the last line is a `StreamEnd`."""
        lines = Lines(receive, self._max_line_bytes)
        grade = self._now if self._grader.is_pure else self._asked
        await _streamed(
            send, lambda outbox: grade(lines, outbox), lines.until_gone, self._grader, self._end
        )

    def _read(self, line: bytes, index: int) -> Row | RowResult:
        """Return item and sample of one line, or the failed row that it is."""
        if len(line) > self._max_line_bytes:
            message = f"the line is longer than {self._max_line_bytes} bytes"
            return self._grader.unreadable(message, index)
        try:
            row = decode(self._decoder, line)
            return _row(row)
        except ClientException as error:
            return self._grader.unreadable(error.detail, index)
        except RowError as error:
            return self._grader.unreadable(str(error), index)

    async def _now(self, lines: Lines, outbox: Outbox) -> None:
        """Grade with a pure definition, in blocks that leave the event loop time for others."""
        index, size = 0, 1
        async for portion in lines.portions():
            start = 0
            while start < len(portion):
                began = time.perf_counter()
                block = portion[start : start + size]
                outbox.put(_encode_lines(self._graded(block, index)))
                start += len(block)
                index += len(block)
                size = next_block(size, time.perf_counter() - began)
                await asyncio.sleep(0)
                await outbox.room()

    def _graded(self, block: list[bytes], first: int) -> list[RowResult]:
        """Return the results of lines; they are read one by one only if they must be."""
        rows = self._all_read(block)
        if rows is not None:
            results = self._grader.now(rows)
            return [indexed(result, index) for index, result in enumerate(results, start=first)]
        results = []
        for index, line in enumerate(block, start=first):
            row = self._read(line, index)
            if not isinstance(row, RowResult):
                row = indexed(self._grader.now((row,))[0], index)
            results.append(row)
        return results

    def _all_read(self, block: list[bytes]) -> list[Row] | None:
        """Return item and sample of every line, which takes half the time; None if one is bad."""
        if max(map(len, block)) > self._max_line_bytes:
            return None
        text = b"\n".join(block)
        # The decoder minds neither two values in a line nor one in two lines, and other lines would
        # get their results. No object goes on after "}" with "{".
        if text.count(b"}\n{") + text.count(b"}\r\n{") < len(block) - 1:
            return None
        try:
            rows = self._decoder.decode_lines(text)
            read = [_row(row) for row in rows]
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, RowError):
            return None
        return read if len(read) == len(block) else None

    async def _asked(self, lines: Lines, outbox: Outbox) -> None:
        """Grade with a definition that asks something outside; results leave as they complete."""

        def emit(index: int, result: RowResult) -> None:
            outbox.put(_encode(indexed(result, index)) + b"\n")

        async def rows() -> AsyncIterator[tuple[int, Row]]:
            index = 0
            async for portion in lines.portions():
                for line in portion:
                    row = self._read(line, index)
                    if isinstance(row, RowResult):
                        outbox.put(_encode(row) + b"\n")
                    else:
                        yield index, row
                    index += 1
                    await outbox.room()

        gone = False
        try:
            await self._grader.each(rows(), emit)
        except* ClientGoneError:  # raised from here, it would be wrapped in a group again
            gone = True
        if gone:
            raise ClientGoneError


class RowStream(ASGIResponse):
    """Grades rows that are there already, NDJSON out."""

    __slots__ = ("_end", "_gone", "_grader", "_rows")

    def __init__(
        self, rows: Sequence[Row], *, grader: RowGrader, end: dict[str, Any], gone: Gone
    ) -> None:
        """Grade ``rows``; ``end`` heads the last line; ``gone`` returns when the client leaves."""
        self._rows = rows
        self._grader = grader
        self._end = end
        self._gone = gone
        self.status_code = 200

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI
        """Stream the results; the last line is a `StreamEnd`."""
        with self._grader.awaited(len(self._rows)):
            await _streamed(send, self._graded, self._gone, self._grader, self._end)

    async def _graded(self, outbox: Outbox) -> None:
        if not self._grader.is_pure:
            await self._grader.each(
                in_turn(enumerate(self._rows)),
                lambda index, result: outbox.put(_encode(indexed(result, index)) + b"\n"),
            )
            return
        done = 0
        while done < len(self._rows):
            results = self._grader.turn(self._rows[done : done + _TURN_ROWS])
            outbox.put(_encode_lines([indexed(row, n) for n, row in enumerate(results, done)]))
            done += len(results)
            await asyncio.sleep(0)
            await outbox.room()


async def _streamed(
    send: Send,
    grade: Callable[[Outbox], Coroutine[Any, Any, None]],
    gone: Gone,
    grader: RowGrader,
    end: dict[str, Any],
) -> None:
    """Send what ``grade`` puts out, then the `StreamEnd`, unless the client is ``gone``."""
    headers = [(b"content-type", NDJSON.encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    outbox = Outbox(send)
    try:
        await unless_gone(grade(outbox), gone())
        outbox.put(_encode(StreamEnd(**end, summary=grader.summary())) + b"\n")
        await unless_gone(outbox.close(), gone())
    except ClientGoneError:
        return
    finally:
        outbox.drop()


def _row(row: ScoreRequest) -> Row:
    """Return item and sample of one line.

    Raises:
        RowError: The sample cannot be read, or the line names a group.
    """
    if row.group is not None:
        raise RowError(NO_GROUPS)
    return row.item, sample_of(row)
