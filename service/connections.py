"""The HTTP parser at work, with an end to the patience and memory that a slow client gets.

uvicorn bounds neither the time nor the size of a request's head, nor the time before the first
request and between two parts of a body: clients that send a byte now and then would hold
descriptors and memory for ever. Here a connection is closed when

- nothing is sent for ``timeout_keep_alive`` before its first request,
- the head of a request, or the rest of a body, comes slower than ``receive_timeout_s`` allows
  (answered 408 where no answer has begun),
- more than `MAX_HEAD_BYTES` arrive that are no body: head, trailers, chunk sizes (431).

A streamed NDJSON body may pause for as long as its client likes.
"""

from __future__ import annotations

import asyncio
import functools
from typing import Any, cast

from uvicorn._types import HTTPScope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from service.streaming import NDJSON

MAX_HEAD_BYTES = 64 * 1024
MIN_BODY_BYTES_PER_S = 4096

_REASONS = {408: "Request Timeout", 431: "Request Header Fields Too Large"}


class BoundedProtocol(HttpToolsProtocol):
    """One connection.

    Costs a request that comes in one piece 0.4 us, for which the base class is called by its name.
    """

    def __init__(self, *arguments: Any, receive_timeout_s: float, **options: Any) -> None:  # noqa: ANN401 - uvicorn's own
        """Give a client ``receive_timeout_s`` for a head, and for every so much of a body."""
        super().__init__(*arguments, **options)
        self._patience_s = receive_timeout_s
        self._patience: asyncio.TimerHandle | None = None
        self._body_bytes = 0  # of the data at hand
        self._body_bytes_since = 0  # the last look
        self._overhead_bytes = 0  # since there last was body

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the first request."""
        super().connection_made(transport)
        self._await_request()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._calm()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse ``data``, then see whether the request gets on."""
        HttpToolsProtocol.data_received(self, data)
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is None or cycle.more_body or cycle.scope is not self.scope:
            self._watch(len(data))
            return
        # The request is complete, as nearly every one is with its first data.
        self._body_bytes = 0
        if self._patience is not None:
            self._calm()
        if cycle.response_complete and self.timeout_keep_alive_task is None:
            self._await_request()  # what came was no request

    def on_body(self, body: bytes) -> None:
        """Note that there is body."""
        self._body_bytes += len(body)
        HttpToolsProtocol.on_body(self, body)

    def _watch(self, size: int) -> None:
        """Look after a request that is incomplete with its latest ``size`` bytes."""
        scope: HTTPScope | None = self.scope
        if self.transport.is_closing():
            return
        self._overhead_bytes = 0 if self._body_bytes else self._overhead_bytes + size
        self._body_bytes_since += self._body_bytes
        self._body_bytes = 0
        if self._overhead_bytes > MAX_HEAD_BYTES:
            self._give_up(431)
        elif scope is None:
            self._await_request()  # what came was no request
        elif self._patience is None:
            self._patience = self.loop.call_later(self._patience_s, self._look)

    def _is_head(self) -> bool:
        """Return whether the head of a request is what is incomplete."""
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is None or cycle.scope is not self.scope

    def _is_idle(self) -> bool:
        """Return whether no answer is to come."""
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is None or cycle.response_complete

    def _await_request(self) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(
            self.timeout_keep_alive, self.timeout_keep_alive_handler
        )

    def _calm(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
        self._body_bytes = self._body_bytes_since = self._overhead_bytes = 0

    def _look(self) -> None:
        """End a request that does not get on."""
        self._patience = None
        if self.transport.is_closing():
            return
        enough = self._body_bytes_since >= MIN_BODY_BYTES_PER_S * self._patience_s
        if self._is_head() or not (self.flow.read_paused or enough or self._is_stream()):
            self._give_up(408)
            return
        self._body_bytes_since = 0
        self._patience = self.loop.call_later(self._patience_s, self._look)

    def _is_stream(self) -> bool:
        kinds = (value for name, value in self.headers if name == b"content-type")
        return next(kinds, b"").lower().startswith(NDJSON.encode())

    def _give_up(self, status: int) -> None:
        """Close the connection; say why if no answer to an earlier request is under way."""
        is_head = self._is_head()
        in_order = self._is_idle() if is_head else not self.pipeline
        if in_order and (is_head or not self.cycle.response_started):
            self.transport.write(
                f"HTTP/1.1 {status} {_REASONS[status]}\r\n"
                "content-length: 0\r\nconnection: close\r\n\r\n".encode()
            )
        self.transport.close()


def bounded(receive_timeout_s: float) -> type[asyncio.Protocol]:
    """Return `BoundedProtocol` with this patience, as uvicorn's ``http``."""
    made = functools.partial(BoundedProtocol, receive_timeout_s=receive_timeout_s)
    return cast("type[asyncio.Protocol]", made)
