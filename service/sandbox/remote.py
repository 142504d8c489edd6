"""The sandbox of another process: a `graders.ports.Sandbox` that asks a runner.

The runner holds user code and no keys; this side holds keys and runs no user code. What a runner
answers is bounded and typed here like any foreign input. When it is away, grading fails typed and
retryable, never with a score.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from graders.errors import (
    GraderError,
    OverloadedError,
    SandboxOverloadedError,
    SandboxUnavailableError,
)
from service.logs import event
from service.sandbox.addresses import check_url
from service.sandbox.config import IsolationReport, RemoteConfig, RemoteStats
from service.sandbox.messages import (
    HEARTBEAT,
    MEDIA_TYPE,
    STATUSES,
    Answer,
    Done,
    RunQuestion,
    error_of,
)
from service.sandbox.probe import require_level
from service.sandbox.problems import IsolationTooWeakError
from service.sandbox.supervisor import encoded

if TYPE_CHECKING:
    from graders.ports import SandboxResult, SandboxRun
    from service.sandbox.transport import Reply, RunnerTransport
    from service.tokens import TokenFile

logger = logging.getLogger(__name__)

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Answer).decode
_OK = 200
_TOKEN_REFUSED = "it expects another token"  # noqa: S105 - says that one was refused


class _Dependency(msgspec.Struct, frozen=True, kw_only=True):
    isolation: IsolationReport


class _Dependencies(msgspec.Struct, frozen=True, kw_only=True):
    sandbox: _Dependency


class _Ready(msgspec.Struct, frozen=True, kw_only=True):
    """The part of a runner's readiness that is of interest.

    Attributes:
        authorized: Whether the token presented is one of the runner's.
    """

    authorized: bool = True
    dependencies: _Dependencies


class RemoteSandbox:
    """Runs Python graders in a runner; belongs to one event loop."""

    def __init__(self, config: RemoteConfig, tokens: TokenFile) -> None:
        """Remember where the runner is; nothing connects before the first call.

        Raises:
            ValueError: The URL is none that a runner can have.
        """
        self._config = config
        self._unix = check_url(config.url)
        self._tokens = tokens
        self._transport: RunnerTransport | None = None
        self._calls: Counter[str] = Counter()
        self._in_flight = 0
        self._away = False
        self.required = config.required
        self.report: IsolationReport | None = None

    @property
    def state(self) -> Literal["starting", "running", "refused"]:
        """How far it has come, by what the runner said last; ``starting`` before that."""
        if self.report is None:
            return "starting"
        try:
            require_level(self.report, self._config.minimum_level)
        except IsolationTooWeakError:
            return "refused"
        return "running"

    def start(self) -> None:
        """Do nothing: the runner starts elsewhere."""

    async def started(self) -> None:
        """Return once the runner can be used.

        Raises:
            SandboxUnavailableError: It cannot be reached for long, or is too weak.
        """
        end = time.monotonic() + self._config.patience_s
        while True:
            try:
                require_level(await self._look(), self._config.minimum_level)
            except IsolationTooWeakError:
                raise
            except SandboxUnavailableError:
                if time.monotonic() > end:
                    raise
                await asyncio.sleep(0.5)
            else:
                return

    async def run(self, run: SandboxRun) -> SandboxResult:
        """Return what the grader did.

        Raises:
            SandboxUnavailableError: The runner is away, too weak, or could not run it to an end.
            OverloadedError: Too many calls wait, here or there.
            DefinitionError: Unknown image tag, or a source that is too long.
            InputTooLongError: Sample and item are larger than the runner takes.
        """
        config = self._config
        encoded(run.source, config.max_source_bytes)
        if self._in_flight >= config.queue_length:
            self._calls["overloaded"] += 1
            message = f"{config.queue_length} Python grader calls are under way already"
            raise SandboxOverloadedError(message, retry_after_s=1.0, kind="sandbox_queue_full")
        question = _encode(
            RunQuestion(
                source=run.source,
                image_tag=run.image_tag,
                payload=run.payload,
                timeout_s=config.timeout_s,
                seeds=config.seeds,
                minimum_level=config.minimum_level,
            )
        )
        self._in_flight += 1
        try:
            result = await self._ask(question)
        except GraderError as error:
            self._calls[_outcome(error)] += 1
            raise
        except asyncio.CancelledError:
            self._calls["cancelled"] += 1
            raise
        finally:
            self._in_flight -= 1
        self._calls["answered"] += 1
        return result

    async def _ask(self, question: bytes) -> SandboxResult:
        """Return the result, after a second attempt where the connection failed.

        A kept connection may have ended, and behind one address there may be other runners.
        """
        from service.sandbox.transport import ConnectionFailedError  # noqa: PLC0415 - brings aiohttp

        transport = self._open()
        for last in (False, True):
            try:
                reply = await transport.run(question, self._tokens.first)
            except ConnectionFailedError as error:
                if last:
                    raise self._gone(str(error)) from error
            except TimeoutError as error:
                raise self._gone(f"silent for {self._config.silence_s:g} s") from error
            else:
                if reply.status == STATUSES["unauthorized"]:
                    self._lose(_TOKEN_REFUSED)
                else:
                    self._reached()
                return self._read(reply)
        raise AssertionError  # pragma: no cover - the last attempt returns or raises

    def _read(self, reply: Reply) -> SandboxResult:
        if reply.body is None:
            message = f"the runner answered more than {self._config.max_answer_bytes} bytes"
            raise SandboxUnavailableError(message, retryable=False, kind="runner_answer_too_large")
        if reply.media_type != MEDIA_TYPE:
            raise _not_understood(f"status {reply.status}")
        try:
            answer = _decode(reply.body.lstrip(HEARTBEAT))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise _not_understood("something that is no answer") from error
        if isinstance(answer, Done):
            return answer.result
        raise error_of(answer)

    async def _look(self) -> IsolationReport:
        """Return the runner's isolation as it is now.

        Raises:
            SandboxUnavailableError: It cannot be reached, is not ready, or refuses our token.
        """
        from service.sandbox.transport import ConnectionFailedError  # noqa: PLC0415 - brings aiohttp

        self.report = None
        try:
            reply = await self._open().ready(self._tokens.first, self._config.look_timeout_s)
        except ConnectionFailedError as error:
            raise self._gone(str(error)) from error
        except TimeoutError as error:
            raise self._gone(f"silent for {self._config.look_timeout_s:g} s") from error
        try:
            ready = msgspec.json.decode(reply.body or b"", type=_Ready)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            self._reached()
            raise _not_understood(f"status {reply.status}") from error
        if not ready.authorized:
            self._lose(_TOKEN_REFUSED)
            raise SandboxUnavailableError(
                "the runner of Python graders expects another token",
                retry_after_s=1.0,
                kind="unauthorized",
            )
        self._reached()
        self.report = ready.dependencies.sandbox.isolation
        return self.report

    def _open(self) -> RunnerTransport:
        if self._transport is None:
            from service.sandbox.transport import RunnerTransport  # noqa: PLC0415 - brings aiohttp

            self._transport = RunnerTransport(self._config, self._unix)
        return self._transport

    def _gone(self, why: str) -> SandboxUnavailableError:
        self._lose(why)
        return SandboxUnavailableError(
            f"the runner of Python graders cannot be reached: {why}",
            retry_after_s=1.0,
            kind="runner_away",
        )

    def _lose(self, why: str) -> None:
        if not self._away:
            event(logger, logging.WARNING, "the runner is away", {"reason": why})
        self._away = True

    def _reached(self) -> None:
        if self._away:
            event(logger, logging.INFO, "the runner is back", {})
        self._away = False

    def stats(self) -> RemoteStats:
        """Return counters since the start and gauges of now."""
        return RemoteStats(calls=dict(self._calls), in_flight=self._in_flight, away=self._away)

    async def check(self) -> dict[str, Any]:
        """Return what ``/readyz`` shows; a runner that is away costs Python graders only."""
        shown = {"ok": True, "runner": self._config.url}
        try:
            report = await self._look()
            require_level(report, self._config.minimum_level)
        except IsolationTooWeakError as error:
            return {**shown, "state": "refused", "reason": str(error)}
        except SandboxUnavailableError as error:
            return {**shown, "state": "away", "reason": str(error)}
        state = "degraded" if report.level == "process" else "running"
        return {**shown, "state": state, "isolation": msgspec.to_builtins(report)}

    async def close(self) -> None:
        """Close every connection; the next call would open them again."""
        transport, self._transport = self._transport, None
        if transport is not None:
            await transport.close()


def _not_understood(what: str) -> SandboxUnavailableError:
    message = f"the runner of Python graders is not understood: it answered {what}"
    return SandboxUnavailableError(message, retry_after_s=1.0, kind="runner_not_understood")


def _outcome(error: GraderError) -> str:
    match error:
        case OverloadedError():
            return "overloaded"
        case SandboxUnavailableError():
            return "unavailable"
        case _:
            return "refused"
