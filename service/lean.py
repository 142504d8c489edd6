"""Request and response classes for the API routers: bytes to Struct and back in one pass each.

Measured at 0.59 of a raw ASGI app against 0.38 for the stock classes (spec/performance.md §2).
They leave out what these routes never use: cookies, background tasks, response headers set by
layers. Handlers that need those return a stock `litestar.Response`. `tests/api/test_lean.py` holds
both against stock behaviour; Litestar is pinned to 2.25.x for the private attributes used here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import msgspec
from litestar import Litestar, Request, Response
from litestar.datastructures import State
from litestar.exceptions import ClientException, HTTPException
from litestar.exceptions.http_exceptions import RequestEntityTooLarge
from litestar.plugins import PluginProtocol
from litestar.plugins.core import MsgspecDIPlugin
from litestar.response.base import ASGIResponse
from litestar.types import Empty, Receive, Scope, Send

_JSON = (b"content-type", b"application/json")
_encode = msgspec.json.Encoder().encode
_decoders: dict[
    Any, msgspec.json.Decoder[Any]
] = {}  # one per handler; handlers live as long as the app


class ClientGoneError(Exception):
    """The client closed the connection; there is nobody to answer."""


class LeanApp(Litestar):
    """Calls the hot routes past Litestar's layers, and all others as Litestar does.

    A handler with ``opt={DIRECT: typed}`` (or ``own``, see there) keeps its place in routing and in
    the API description, but its call goes straight to the function: a third of the time of a score.
    """

    @staticmethod
    def _get_default_plugins(plugins: list[PluginProtocol]) -> list[PluginProtocol]:
        # without those for pydantic and attrs: nothing here uses what is slow to import
        return [*plugins, MsgspecDIPlugin()]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401 - ASGI
        """Handle one connection."""
        call = self._direct(scope) if scope["type"] == "http" else None
        if call is None or (call is typed and scope["query_string"]):
            await super().__call__(scope, receive, send)
            return
        request = LeanRequest(scope, receive, send)
        try:
            answer = await call(request)
        except Exception as error:  # noqa: BLE001 - as Litestar's outermost layer does
            handle: Any = self.exception_handlers[Exception]
            answer = handle(request, error).to_asgi_response(self, request)
        await answer(scope, receive, send)

    def _direct(self, scope: Any) -> Call | None:  # noqa: ANN401 - ASGI
        """Return how the route of ``scope`` is called, if directly, and note the route there."""
        try:
            _, handler, path, parameters, template = self.asgi_router.handle_routing(
                path=scope["path"], method=scope["method"]
            )
        except HTTPException:
            return None  # the stock way says so
        call: Call | None = handler.opt.get(DIRECT)
        if call is not None:
            scope.setdefault("state", {})
            scope["app"] = scope["litestar_app"] = self
            scope["route_handler"] = handler
            scope["path"], scope["path_params"], scope["path_template"] = path, parameters, template
        return call


class LeanRequest(Request[Any, Any, State]):
    """Reads the body without the stock stream and decodes it straight into the handler's type."""

    async def body(self) -> bytes:
        """Return the whole body.

        Raises:
            RequestEntityTooLarge: It is larger than the app's ``request_max_body_size``.
            ClientGoneError: The client closed the connection before it was complete.
        """
        if self._body is not Empty:
            return self._body
        limit: int = self.app.state.max_body_bytes
        parts: list[bytes] = []
        size = 0
        more = True
        while more:
            message: Any = await self.receive()
            if message["type"] == "http.disconnect":
                raise ClientGoneError
            part = message.get("body", b"")
            parts.append(part)
            size += len(part)
            if size > limit:
                raise RequestEntityTooLarge(f"the body is larger than {limit} bytes")
            more = message.get("more_body", False)
        self._body = parts[0] if len(parts) == 1 else b"".join(parts)
        return self._body

    async def until_gone(self) -> None:
        """Return when the client closes the connection; only after the body was read."""
        while (await self.receive())["type"] != "http.disconnect":
            pass

    async def json(self) -> Any:  # noqa: ANN401 - the type of the handler's ``data``
        """Return the body as the handler's ``data`` type.

        Raises:
            ClientException: The body is not JSON of that shape; the message names the place.
        """
        body = await self.body()
        if not body:
            raise ClientException("the body is empty")
        handler: Any = self.scope["route_handler"]
        decoder = _decoders.get(handler)
        if decoder is None:
            annotation = handler.parsed_fn_signature.parameters["data"].annotation
            decoder = _decoders[handler] = msgspec.json.Decoder(annotation)
        return decode(decoder, body)


def decode(decoder: msgspec.json.Decoder[Any], body: bytes) -> Any:  # noqa: ANN401 - the decoder's type
    """Return ``body`` decoded; every way in which it cannot be is one exception.

    Raises:
        ClientException: Not JSON, not UTF-8, nested too deeply, or of another shape.
    """
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ClientException(str(error)) from error
    except RecursionError as error:
        raise ClientException("JSON is nested too deeply") from error


class LeanResponse(Response[Any]):
    """Encodes a Struct into the body, with two headers and nothing else."""

    def __init__(self, content: Any, *, status_code: int | None = None, **_: Any) -> None:  # noqa: ANN401 - any Struct
        """Keep what the handler returned."""
        self.content = content
        self.status_code = status_code

    def to_asgi_response(
        self,
        app: Any,  # noqa: ANN401, ARG002 - the stock signature
        request: Any,  # noqa: ANN401, ARG002 - the stock signature
        *,
        status_code: int | None = None,
        **_: Any,  # noqa: ANN401 - the stock signature
    ) -> ASGIResponse:
        """Return what sends the encoded content, or the content itself when it can send."""
        if isinstance(self.content, ASGIResponse):
            return self.content
        return Encoded(_encode(self.content), self.status_code or status_code or 200)


Call: TypeAlias = Callable[[LeanRequest], Awaitable[ASGIResponse]]
DIRECT = "direct"  # the option of a handler that says which of the following calls it


async def typed(request: LeanRequest) -> ASGIResponse:
    """Call a handler that takes ``request``, ``data`` and path parameters that are texts.

    Query parameters must all have defaults; a call that has a query string goes the stock way,
    which validates it.
    """
    handler: Any = request.scope["route_handler"]
    data = await request.json()
    content = await handler.fn(request=request, data=data, **request.scope["path_params"])
    return Encoded(_encode(content), handler.status_code)


async def own(request: LeanRequest) -> ASGIResponse:
    """Call a handler that reads query and body itself, and answers with a `LeanResponse`."""
    handler: Any = request.scope["route_handler"]
    response = await handler.fn(request=request, **request.scope["path_params"])
    return Encoded(_encode(response.content), handler.status_code)


class Encoded(ASGIResponse):
    """A JSON body that is already bytes."""

    __slots__ = ("payload",)

    def __init__(self, payload: bytes, status_code: int) -> None:
        """Take the body and the status."""
        self.payload = payload
        self.status_code = status_code

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI
        """Send both messages."""
        length = (b"content-length", b"%d" % len(self.payload))
        await send(
            {
                "type": "http.response.start",
                "status": self.status_code,
                "headers": [_JSON, length],
            }
        )
        await send({"type": "http.response.body", "body": self.payload, "more_body": False})
