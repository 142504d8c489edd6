"""The runner: a sandbox behind HTTP, for a container that holds user code and no keys.

Bare ASGI, because there is one route that matters: ``POST /v1/run`` takes a `RunQuestion` and
answers with an `Answer`; `messages` says how. ``/healthz``, ``/readyz`` and ``/metrics`` are open;
``/readyz`` also says whether it would run something for whoever asks.
A caller that goes away has its call killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeAlias

import msgspec
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from graders.errors import GraderError
from graders.ports import SandboxRun
from service import __version__
from service.adapters import AdapterError, LateSandbox
from service.logs import event
from service.metrics import Metrics
from service.observing import SandboxObserver
from service.sandbox import RunTerms
from service.sandbox.messages import (
    HEARTBEAT,
    HEARTBEAT_S,
    MEDIA_TYPE,
    READY_PATH,
    RUN_PATH,
    STATUSES,
    Answer,
    Done,
    Refused,
    RunQuestion,
    refusal,
)
from service.sandbox.probe import require_level
from service.settings import RUNNER_SETTINGS, Settings
from service.tokens import TokenFile

logger = logging.getLogger(__name__)

Receive: TypeAlias = Callable[[], Awaitable[dict[str, Any]]]
Send: TypeAlias = Callable[[dict[str, Any]], Awaitable[None]]

_BODY_S = 30.0  # a question takes milliseconds to arrive
_BODIES = 4  # of the largest size may be in memory
_BEARER = b"bearer "
_PREFIX = "gradekeeper_sandbox_"

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(RunQuestion).decode


class RefusedError(Exception):
    """A request that is answered without running anything."""

    def __init__(self, refused: Refused) -> None:
        """Keep the answer."""
        self.refused = refused
        super().__init__(refused.details)


class Runner:
    """ASGI application around a sandbox.

    Attributes:
        failure: Why the sandbox did not start; None if it did.
    """

    def __init__(
        self, settings: Settings, sandbox: LateSandbox, tokens: TokenFile, *, max_calls: int
    ) -> None:
        """Serve ``sandbox`` to callers that present one of ``tokens``, ``max_calls`` at once."""
        self._settings = settings
        self._sandbox = sandbox
        self._tokens = tokens
        self._metrics = Metrics()
        self._observer = SandboxObserver(self._metrics, sandbox)
        self._max_calls = max_calls
        self._calls = 0
        self._held_bytes = 0
        self.failure: str | None = None

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Handle the process's life, or one request."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        match scope["method"], scope["path"]:
            case "POST", path if path == RUN_PATH:
                await self._run(scope, receive, send)
            case "GET", "/healthz":
                await _send_json(send, 200, {"status": "ok"})
            case "GET", path if path == READY_PATH:
                await self._show_ready(dict(scope["headers"]), send)
            case "GET", "/metrics":
                self._observer.look()
                text = generate_latest(_Only(self._metrics.registry.collect))
                await _send(send, 200, CONTENT_TYPE_LATEST, text)
            case _:
                await _send_json(send, 404, {"error": "a runner has no such route"})

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            await self._sandbox.started()
        except (AdapterError, GraderError) as error:
            self.failure = str(error)
            await send({"type": "lifespan.startup.failed", "message": self.failure})
            return
        shown = self._settings.masked()
        fields = {name: shown[name] for name in sorted(RUNNER_SETTINGS)}
        event(logger, logging.INFO, "ready", {"version": __version__, **fields})
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._sandbox.close()
        event(logger, logging.INFO, "stopped", {})
        await send({"type": "lifespan.shutdown.complete"})

    async def _show_ready(self, headers: dict[bytes, bytes], send: Send) -> None:
        """Answer probes, which hold no token, and services, which ask whether theirs will do."""
        found = await self._sandbox.check()
        ready = {
            "ready": found["ok"],
            "authorized": self._trusts(headers),
            "dependencies": {"sandbox": found},
        }
        await _send_json(send, 200 if found["ok"] else 503, ready)

    async def _run(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        size = 0
        self._calls += 1
        try:
            size = self._admit(dict(scope["headers"]))
            self._held_bytes += size
            question = await _question(receive, size)
            await self._answer(question, receive, send)
        except RefusedError as error:
            await _send_answer(send, error.refused)
        except _GoneError:
            return
        finally:
            self._held_bytes -= size
            self._calls -= 1

    def _admit(self, headers: dict[bytes, bytes]) -> int:
        """Return the size of the body to come.

        Raises:
            RefusedError: It may not come.
        """
        if not self._trusts(headers):
            raise _refuse("unauthorized", "the runner expects another token")
        length = headers.get(b"content-length", b"")
        if not length.isdigit():
            raise _refuse("malformed", "a question needs a Content-Length", retryable=False)
        size, most = int(length), self._settings.max_body_bytes
        if size > most:
            raise _refuse("too_large", f"the question has {size} bytes; {most} are allowed")
        if self._calls > self._max_calls:
            raise _refuse("overloaded", "the runner has too many calls", retry_after_s=1.0)
        if self._held_bytes + size > _BODIES * most:
            raise _refuse("overloaded", "the runner holds too many bytes", retry_after_s=1.0)
        return size

    def _trusts(self, headers: dict[bytes, bytes]) -> bool:
        presented = headers.get(b"authorization", b"")
        token = presented[len(_BEARER) :] if presented[: len(_BEARER)].lower() == _BEARER else b""
        return self._tokens.accepts(token)

    async def _answer(self, question: RunQuestion, receive: Receive, send: Send) -> None:
        """Run ``question``; say every second that it is still being worked on."""
        work = asyncio.ensure_future(self._work(question))
        gone = asyncio.ensure_future(_disconnected(receive))
        begun = False
        try:
            while True:
                await asyncio.wait(
                    {work, gone}, timeout=HEARTBEAT_S, return_when=asyncio.FIRST_COMPLETED
                )
                if work.done() or gone.done():
                    break
                if not begun:
                    await send(_start(200, MEDIA_TYPE))
                    begun = True
                await send({"type": "http.response.body", "body": HEARTBEAT, "more_body": True})
            if not work.done():
                return
            answer = work.result()
            if begun:
                await send({"type": "http.response.body", "body": _encode(answer)})
            else:
                await _send_answer(send, answer)
        finally:
            for task in (work, gone):
                task.cancel()
            await asyncio.gather(work, gone, return_exceptions=True)

    async def _work(self, question: RunQuestion) -> Answer:
        terms = RunTerms(timeout_s=question.timeout_s, seeds=question.seeds)
        run = SandboxRun(
            source=question.source, image_tag=question.image_tag, payload=question.payload
        )
        try:
            running = await self._sandbox.started()
            require_level(running.report(), question.minimum_level)
            return Done(result=await running.run(run, terms))
        except GraderError as error:
            return refusal(error)
        except Exception:  # the outermost handler of this process
            logger.exception("a call failed")
            return Refused(cause="unavailable", details="the runner failed", kind="runner_error")


class _GoneError(Exception):
    """The caller went away before it had sent everything."""


class _Only:
    """The sandbox's part of the catalogue: a runner has no other series."""

    def __init__(self, collect: Callable[[], Iterable[Any]]) -> None:
        self._collect = collect

    def collect(self) -> Iterable[Any]:
        return (family for family in self._collect() if family.name.startswith(_PREFIX))


def _refuse(cause: Any, details: str, **more: Any) -> RefusedError:  # noqa: ANN401 - fields of `Refused`
    return RefusedError(Refused(cause=cause, details=details, **more))


async def _question(receive: Receive, size: int) -> RunQuestion:
    """Return the question in a body of at most ``size`` bytes.

    Raises:
        RefusedError: It is none, or does not arrive.
    """
    parts: list[bytes] = []
    try:
        async with asyncio.timeout(_BODY_S):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise _GoneError
                parts.append(message.get("body", b""))
                if not message.get("more_body"):
                    break
    except TimeoutError as error:
        raise _refuse("malformed", f"no question of {size} bytes came in {_BODY_S:g} s") from error
    try:
        return _decode(b"".join(parts))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _refuse("malformed", "this is no question", retryable=False) from error


async def _disconnected(receive: Receive) -> None:
    with contextlib.suppress(asyncio.CancelledError):
        while (await receive())["type"] != "http.disconnect":
            pass


def _start(status: int, media_type: str, *headers: tuple[bytes, bytes]) -> dict[str, Any]:
    shown = [(b"content-type", media_type.encode()), *headers]
    return {"type": "http.response.start", "status": status, "headers": shown}


async def _send_answer(send: Send, answer: Answer) -> None:
    if isinstance(answer, Done):
        await _send(send, 200, MEDIA_TYPE, _encode(answer))
        return
    after = math.ceil(answer.retry_after_s) if answer.retry_after_s is not None else 1
    wait = ((b"retry-after", str(after).encode()),) if answer.retryable else ()
    await _send(send, STATUSES[answer.cause], MEDIA_TYPE, _encode(answer), *wait)


async def _send_json(send: Send, status: int, content: object) -> None:
    await _send(send, status, "application/json", msgspec.json.encode(content))


async def _send(
    send: Send, status: int, media_type: str, body: bytes, *headers: tuple[bytes, bytes]
) -> None:
    length = (b"content-length", str(len(body)).encode())
    await send(_start(status, media_type, length, *headers))
    await send({"type": "http.response.body", "body": body})
