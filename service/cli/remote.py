"""Scores rows on a server, in batches that grow and shrink with the time they take."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import quote

import httpx
import msgspec

from graders.sample import JsonValue
from service.backoff import retry_after_s
from service.cli.asking import PLAIN, Asking, asking_judges
from service.cli.failures import UNREACHABLE, CommandError
from service.cli.lines import INVALID_ROW, Emit, Line, failed, total
from service.cli.local import together
from service.cli.rows import Row
from service.cli.waiting import announce
from service.wire import BatchResponse, GraderReference, Problem, RowResult

PAUSES_S = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)  # between attempts; more attempts than these fail
_FIRST_PAUSES_S = 3  # of them, while nothing has been answered yet
_MAX_PAUSE_S = 600.0  # a server that asks for more is given up at once
_TIMEOUT = httpx.Timeout(600.0, connect=10.0)
_RETRIED = {429, 502, 503, 504}
_ROWS_REFUSED = {400, 413, 422}
_FIRST_ROWS = 16
_MAX_ROWS = 1000
_MAX_BATCH_BYTES = 4 * 1024 * 1024
_QUICK_S, _SLOW_S = 0.25, 2.0

_batch = msgspec.json.Decoder(BatchResponse)
_reference = msgspec.json.Decoder(GraderReference)


class _Defined(msgspec.Struct):
    definition: JsonValue


_defined = msgspec.json.Decoder(_Defined)
_problem = msgspec.json.Decoder(Problem)


class Server:
    """A gradekeeper server and one version of one grader on it."""

    def __init__(self, url: str, grader: str, *, key: str | None, asking: Asking = PLAIN) -> None:
        """Ask ``url`` for ``NAME`` or ``NAME@VERSION``; nothing is sent yet."""
        self._sampling = b""
        if asking.sampling is not None:
            self._sampling = b',"sampling":' + msgspec.json.encode(asking.sampling)
        name, _, version = grader.partition("@")
        self._name = quote(name, safe="")
        self._root = f"{_base(url)}/v1/graders/{self._name}/versions"
        self._version = quote(version or "latest", safe="")
        headers = {"content-type": "application/json", **asking.headers}
        if key:
            headers["authorization"] = f"Bearer {key}"
        self._client = httpx.AsyncClient(headers=headers, timeout=_TIMEOUT)

    async def find(self) -> GraderReference:
        """Return which concrete version grades, and stay with it.

        Raises:
            CommandError: The server cannot be reached or does not know the grader, or an ensemble
                is wanted of one without a judge.
        """
        response = await self._call("GET", "", pauses=PAUSES_S[:_FIRST_PAUSES_S])
        reference: GraderReference = _decoded(_reference, response)
        self._version = str(reference.version)
        if self._sampling:
            asking_judges(_decoded(_defined, response).definition)
        return reference

    async def batch(self, rows: Sequence[bytes], *, debug: bool) -> httpx.Response:
        """Return the answer to a batch.

        Raises:
            CommandError: There is none, or not one about rows.
        """
        body = b'{"rows":[' + b",".join(rows) + b"]" + self._sampling + b"}"
        return await self._call("POST", f"/score/batch{'?debug=true' if debug else ''}", body)

    async def aclose(self) -> None:
        """Drop the connections."""
        await self._client.aclose()

    async def _call(
        self, method: str, path: str, body: bytes = b"", *, pauses: Sequence[float] | None = None
    ) -> httpx.Response:
        url = f"{self._root}/{self._version}{path}"
        left = iter(PAUSES_S if pauses is None else pauses)
        while True:
            wait: float | None = None
            try:
                response = await self._client.request(method, url, content=body)
            except httpx.TransportError as error:
                problem = f"{type(error).__name__}: {error}".rstrip(": ")
            else:
                if response.status_code not in _RETRIED:
                    return _checked(response)
                problem = _detail(response)
                wait = retry_after_s(response.headers.get("retry-after"), now_s=time.time())
            pause = next(left, None)
            if wait is not None and wait > _MAX_PAUSE_S:
                problem += f"; it asks for a pause of {wait:.0f} s"
                pause = None
            if pause is None:
                raise CommandError(f"{url}: {problem}", code=UNREACHABLE)
            pause = pause if wait is None else wait
            announce(pause, f"{url}: {problem}")
            await asyncio.sleep(pause)


class RemoteScorer:
    """Grades through ``…/score/batch``."""

    def __init__(
        self, server: Server, reference: GraderReference, *, debug: bool, concurrency: int
    ) -> None:
        """Keep ``concurrency`` batches under way."""
        self.signature = reference.signature
        self.paid_usd: float | None = None
        self._server = server
        self._debug = debug
        self._concurrency = concurrency
        self._rows = _FIRST_ROWS

    async def score(self, rows: Iterator[Row], emit: Emit) -> None:
        """Emit a line for every row, batch by batch."""
        await together(self._concurrency, lambda: self._work(rows, emit))

    async def _work(self, rows: Iterator[Row], emit: Emit) -> None:
        while batch := self._take(rows):
            started = time.perf_counter()
            await self._send(batch, emit)
            seconds = time.perf_counter() - started
            if seconds > _SLOW_S:
                self._rows = max(1, self._rows // 2)
            elif seconds < _QUICK_S:
                self._rows = min(_MAX_ROWS, self._rows * 2)

    def _take(self, rows: Iterator[Row]) -> list[tuple[int, bytes]]:
        batch: list[tuple[int, bytes]] = []
        size = 0
        for row in rows:
            body = row.as_request()
            batch.append((row.index, body))
            size += len(body)
            if len(batch) >= self._rows or size >= _MAX_BATCH_BYTES:
                break
        return batch

    async def _send(self, batch: list[tuple[int, bytes]], emit: Emit) -> None:
        """Score ``batch``; if it is refused, halve it until the row to blame is alone."""
        response = await self._server.batch([body for _, body in batch], debug=self._debug)
        if response.status_code in _ROWS_REFUSED:
            if len(batch) == 1:
                emit([failed(batch[0][0], INVALID_ROW, _detail(response), self.signature)])
                return
            middle = len(batch) // 2
            await self._send(batch[:middle], emit)
            await self._send(batch[middle:], emit)
            return
        answer = _decoded(_batch, response)
        if answer.signature != self.signature:
            raise CommandError(
                f"the server changed: it now grades as {answer.signature}, not {self.signature}",
                code=UNREACHABLE,
            )
        for result in answer.results:
            self.paid_usd = total(self.paid_usd, result.cost_usd)
        pairs = zip(batch, answer.results, strict=True)
        emit([self._line(index, result) for (index, _), result in pairs])

    def _line(self, row: int, result: RowResult) -> Line:
        return Line(
            row=row,
            reward=result.reward,
            ok=result.ok,
            passed=result.passed,
            error=result.error,
            sub_rewards=result.sub_rewards,
            usage=result.usage,
            diagnostics=result.diagnostics,
            spread=result.ensemble.spread if result.ensemble else None,
            draws=result.ensemble.draws if result.ensemble else None,
            signature="|".join((self.signature, *result.judgements)),
        )


def _base(url: str) -> str:
    """Return the root of a server of which ``url`` is the root or the base that clients take."""
    return url.rstrip("/").removesuffix("/v1").rstrip("/")


def _checked(response: httpx.Response) -> httpx.Response:
    """Return an answer that is a result or speaks about rows.

    Raises:
        CommandError: It is neither.
    """
    status = response.status_code
    if response.is_success or status in _ROWS_REFUSED:
        return response
    ours = 400 <= status < 500  # noqa: PLR2004 - the client errors
    line = f"{response.request.url}: {_detail(response)}"
    if status == httpx.codes.UNAUTHORIZED:
        line += "; --key-env VAR names the environment variable that holds one"
    raise CommandError(line) if ours else CommandError(line, code=UNREACHABLE)


def _decoded(decoder: msgspec.json.Decoder[Any], response: httpx.Response) -> Any:  # noqa: ANN401 - the decoder's type
    try:
        return decoder.decode(response.content)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        line = f"{response.request.url}: not the answer of a gradekeeper server: {error}"
        raise CommandError(line, code=UNREACHABLE) from error


def _detail(response: httpx.Response) -> str:
    """Return what the answer says went wrong."""
    try:
        problem = _problem.decode(response.content)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return f"HTTP {response.status_code}"
    return f"HTTP {response.status_code}: {problem.detail}"
