"""Our lean request and response against Litestar's own: equal where we decided nothing else."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import msgspec
import pytest
from litestar import Litestar, Request, Response, Router, post
from litestar.datastructures import State
from litestar.exceptions import ClientException
from litestar.params import FromPath, FromQuery, JSONBody

from service.lean import DIRECT, ClientGoneError, LeanApp, LeanRequest, LeanResponse, decode, typed
from service.problems import handle
from tests.api.world import calling

LIMIT = 4_000


class Inner(msgspec.Struct, frozen=True):
    text: str
    number: float = 1.5


class Body(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    inner: Inner
    rows: list[Inner] = []
    anything: Any = None


class Answer(msgspec.Struct, frozen=True):
    inner: Inner
    count: int
    anything: Any
    nothing: None = None


async def echo(request: Request[Any, Any, Any], data: JSONBody[Body]) -> Answer:
    """Give back what was read."""
    return Answer(data.inner, len(data.rows), data.anything)


async def created(request: Request[Any, Any, Any], data: JSONBody[Body]) -> Answer:
    """Take Litestar's status for a creation."""
    return Answer(data.inner, 0, None)


async def refused(request: Request[Any, Any, Any], data: JSONBody[Body]) -> Answer:
    """Refuse in the handler."""
    raise ClientException("not this one", status_code=409)


async def broken(request: Request[Any, Any, Any], data: JSONBody[Body]) -> Answer:
    """Fail in a way that nobody foresaw."""
    raise ZeroDivisionError(data.inner.text)


async def parameters(
    request: Request[Any, Any, Any],
    name: FromPath[str],
    count: FromQuery[int],
    data: JSONBody[Body],
    debug: FromQuery[bool] = False,
) -> Answer:
    """Take parameters beside the body."""
    return Answer(data.inner, count, [name, debug])


def app_of(
    app_class: type[Litestar],
    request_class: type[Request[Any, Any, Any]],
    response_class: type[Response[Any]],
) -> Any:
    opt = {DIRECT: typed} if app_class is LeanApp else {}
    handlers = [
        post("/echo", status_code=200, opt=opt)(echo),
        post("/created", opt=opt)(created),
        post("/refused", status_code=200, opt=opt)(refused),
        post("/parameters/{name:str}", status_code=200)(parameters),
        post("/broken", opt=opt)(broken),
    ]
    router = Router(
        "/", route_handlers=handlers, request_class=request_class, response_class=response_class
    )
    return app_class(
        [router],
        openapi_config=None,
        logging_config=None,
        exception_handlers={Exception: handle},
        request_max_body_size=LIMIT,
        state=State({"max_body_bytes": LIMIT}),
    )


APPS: dict[str, tuple[type[Litestar], Any, Any]] = {
    "direct": (LeanApp, LeanRequest, LeanResponse),
    "lean": (Litestar, LeanRequest, LeanResponse),
}


@pytest.fixture(params=APPS)
async def both(request: pytest.FixtureRequest) -> AsyncIterator[Callable[..., Any]]:
    lean, stock = app_of(*APPS[request.param]), app_of(Litestar, Request, Response)
    async with calling(lean) as one, calling(stock) as other:

        async def ask(path: str, body: bytes, **options: Any) -> tuple[Any, Any]:
            return (
                await one.post(path, content=body, **options),
                await other.post(path, content=body, **options),
            )

        yield ask


def shown(response: httpx.Response) -> tuple[int, str, Any]:
    """Return what must be equal: status, content type and body, without the request id."""
    kind = response.headers.get("content-type", "").partition(";")[0]
    return response.status_code, kind, response.json()


GOOD = b'{"inner": {"text": "a"}}'


@pytest.mark.parametrize(
    ("path", "body"),
    [
        pytest.param("/echo", GOOD, id="good"),
        pytest.param("/echo", b'{"inner": {"text": "\xc3\xa9\\ud83d\\ude00"}}', id="text"),
        pytest.param("/echo", b'{"inner": {"text": "a", "number": 3}}', id="int for a float"),
        pytest.param("/echo", b'{"inner": {"text": "a", "more": 1}}', id="unknown, allowed"),
        pytest.param("/echo", b'{"inner": {"text": "a"}, "rows": [{"text": ""}]}', id="rows"),
        pytest.param("/echo", b'{"inner": {"text": "a"}, "anything": {"b": [1]}}', id="any"),
        pytest.param("/created", GOOD, id="status of the method"),
        pytest.param("/refused", GOOD, id="refused by the handler"),
        pytest.param("/broken", GOOD, id="broken handler"),
        pytest.param("/nowhere", GOOD, id="no such route"),
        pytest.param("/echo/", GOOD, id="slash at the end"),
        pytest.param("/echo?debug=true", GOOD, id="parameter that nobody takes"),
        pytest.param("/parameters/x?count=3", GOOD, id="parameters"),
        pytest.param("/parameters/x?count=3&debug=true", GOOD, id="flag"),
        pytest.param("/parameters/x?count=three", GOOD, id="bad parameter"),
        pytest.param("/parameters/x", GOOD, id="missing parameter"),
        pytest.param("/echo", b"", id="empty"),
        pytest.param("/echo", b"{", id="torn"),
        pytest.param("/echo", b"[]", id="array"),
        pytest.param("/echo", b"null", id="null"),
        pytest.param("/echo", b"{}", id="missing field"),
        pytest.param("/echo", b'{"inner": {}}', id="missing inner field"),
        pytest.param("/echo", b'{"inner": {"text": 1}}', id="wrong type"),
        pytest.param("/echo", b'{"inner": {"text": "a"}, "more": 1}', id="unknown field"),
        pytest.param("/echo", b'{"inner": {"text": "a"}, "rows": [{"text": "a"}, 1]}', id="row"),
        pytest.param("/echo", b'{"inner": {"text": "a"}} {}', id="trailing"),
    ],
)
async def test_agrees_with_the_stock_classes(
    both: Callable[..., Any], path: str, body: bytes
) -> None:
    lean, stock = await both(path, body)
    assert shown(lean) == shown(stock)


async def test_agrees_on_too_large_but_for_the_words(both: Callable[..., Any]) -> None:
    lean, stock = await both("/echo", b'{"inner": {"text": "' + b"x" * LIMIT + b'"}}')
    assert lean.status_code == stock.status_code == 413
    assert lean.json()["type"] == stock.json()["type"]
    assert str(LIMIT) in lean.json()["detail"]


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b'{"inner": {"text": "\xff"}}', id="invalid UTF-8"),
        pytest.param(
            b'{"inner": {"text": "a"}, "anything": ' + b"[" * 1_500 + b"]" * 1_500 + b"}",
            id="deep nesting",
        ),
    ],
)
async def test_what_stock_litestar_takes_for_its_own_fault_is_400(
    both: Callable[..., Any], body: bytes
) -> None:
    lean, stock = await both("/echo", body)
    assert stock.status_code == 500
    assert lean.status_code == 400
    assert lean.json()["type"] == "urn:gradekeeper:problem:bad-request"


async def test_the_body_is_read_once_and_kept() -> None:
    reads = 0

    async def receive() -> Any:
        nonlocal reads
        reads += 1
        return {"type": "http.request", "body": b"ab", "more_body": reads < 3}

    request = request_of(receive)
    assert await request.body() == b"ababab"
    assert await request.body() == b"ababab"
    assert reads == 3


async def test_a_client_that_leaves_before_the_end_is_noticed() -> None:
    messages = iter([{"type": "http.request", "body": b"a", "more_body": True}])

    async def receive() -> Any:
        return next(messages, {"type": "http.disconnect"})

    with pytest.raises(ClientGoneError):
        await request_of(receive).body()


async def test_what_a_gone_client_is_sent_is_only_for_the_log() -> None:
    request = request_of(None)
    response = handle(request, ClientGoneError()).to_asgi_response(None, request)
    assert response.status_code == 499


def request_of(receive: Any) -> LeanRequest:
    app = app_of(LeanApp, LeanRequest, LeanResponse)
    scope: Any = {
        "type": "http",
        "method": "POST",
        "path": "/echo",
        "headers": [],
        "query_string": b"",
        "litestar_app": app,
        "app": app,
    }
    return LeanRequest(scope, receive)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{", "truncated"),
        (b'"\xff"', "utf-8"),
        (b"[" * 5_000, "JSON is nested too deeply"),
        (b'{"a": 1}', r"Expected `array`, got `object`"),
    ],
)
def test_decode_has_one_error_for_everything(body: bytes, message: str) -> None:
    kind: Any = list[int] if body.startswith(b"{") and len(body) > 1 else Any
    with pytest.raises(ClientException, match=message):
        decode(msgspec.json.Decoder(kind), body)


async def test_a_response_has_two_headers_and_the_encoded_content() -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    response = LeanResponse(Inner("é"), status_code=201).to_asgi_response(None, None)
    nothing: Any = None  # neither scope nor request is looked at
    await response(nothing, nothing, send)
    start, body = sent
    assert start["status"] == 201
    assert dict(start["headers"]) == {
        b"content-type": b"application/json",
        b"content-length": str(len(body["body"])).encode(),
    }
    assert json.loads(body["body"]) == {"text": "é", "number": 1.5}


async def test_a_direct_handler_is_called_past_the_layers_of_litestar(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    passed: list[str] = []

    async def seen(_: Any, scope: Any, receive: Any, send: Any) -> None:
        passed.append(scope["path"])

    app = app_of(LeanApp, LeanRequest, LeanResponse)
    monkeypatch.setattr(Litestar, "__call__", seen)
    async with calling(app) as client:
        assert (await client.post("/echo", content=GOOD)).status_code == 200
    assert passed == []
