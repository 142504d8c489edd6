"""Grades on a gradekeeper server: batches, retries, one deadline for all of it.

What may be retried is retried until the deadline: no connection, no answer, 408, 425, 429, every
5xx but 501, an answer that is none, and rows that the server marks retryable. ``Retry-After`` is
honoured. Grading changes nothing on the server, so that asking twice is safe. Every other answer
says that the set-up is wrong and raises `RefusedError`. Redirects are not followed.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
import weakref
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.client import HTTPConnection, HTTPException, HTTPResponse
from ssl import SSLCertVerificationError

from service.backoff import pause_s, retry_after_s
from service.trainers.connections import Call, Connections
from service.trainers.errors import RefusedError
from service.trainers.rows import Result, decode_results, failed
from service.trainers.source import Source

logger = logging.getLogger(__name__)

_MAX_BATCH_BYTES = 8 * 1024 * 1024
_MAX_ANSWER_BYTES = 64 * 1024 * 1024
_READ_BYTES = 256 * 1024
_KEPT = 256
_FIRST_PAUSE_S = 0.25
_MOST_PAUSE_S = 10.0
_OK, _TOO_LARGE = 200, 413
_RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})


class _TryAgainError(Exception):
    """This attempt failed, the next one may not."""

    def __init__(self, reason: str, retry_after: float | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry_after = retry_after


class _TooLargeError(Exception):
    """The server does not take so many bytes or rows at once."""


class Client:
    """A scorer on a server; see `reward.Scorer`."""

    def __init__(self, source: Source) -> None:
        """Connect on first use.

        Raises:
            RefusedError: ``ca_file`` cannot be used.
        """
        self.source = source
        try:
            self._connections = Connections(source.url, keep=_KEPT, ca_file=source.ca_file)
        except OSError as error:
            raise RefusedError(f"ca_file cannot be used: {error}", "invalid_settings") from error
        weakref.finalize(self, self._connections.forget)
        self._threads: dict[int, ThreadPoolExecutor] = {}
        self._headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if source.key:
            self._headers["Authorization"] = f"Bearer {source.key}"

    def score(self, rows: Sequence[bytes]) -> list[Result]:
        """Return one result a row, in order; failures are results too."""
        call = Call(self.source.deadline_s)
        batches = list(_batches(rows, self.source.batch_rows))
        if len(batches) <= 1:
            return self._grade(rows, call) if rows else []
        try:
            answers = list(self._pool().map(partial(self._grade, call=call), batches))
        except BaseException:
            call.cancel()
            raise
        return [result for answer in answers for result in answer]

    async def score_async(self, rows: Sequence[bytes]) -> list[Result]:
        """Return the same without holding up the event loop; being cancelled frees the work."""
        call = Call(self.source.deadline_s)
        loop, pool = asyncio.get_running_loop(), self._pool()
        batches = _batches(rows, self.source.batch_rows)
        futures = [loop.run_in_executor(pool, self._grade, batch, call) for batch in batches]
        try:
            answers = await asyncio.gather(*futures)
        except BaseException:
            call.cancel()
            await asyncio.gather(*futures, return_exceptions=True)
            raise
        return [result for answer in answers for result in answer]

    def _pool(self) -> ThreadPoolExecutor:
        """Return this process's threads; those of a parent did not survive the fork."""
        process = os.getpid()
        if process not in self._threads:
            fresh = ThreadPoolExecutor(self.source.connections, "gradekeeper")
            self._threads.setdefault(process, fresh)  # of two that race, one is never started
        return self._threads[process]

    def _grade(self, rows: Sequence[bytes], call: Call) -> list[Result]:
        """Return the results of one batch, rows that may be retried after their retries."""
        results = [failed("deadline_exceeded", "the deadline passed before it was graded")] * len(
            rows
        )
        waiting = list(range(len(rows)))
        attempt = 0
        while call.remaining() > 0:
            retry_after: float | None = None
            try:
                answers = self._ask([rows[index] for index in waiting], call)
            except _TooLargeError:
                return self._halves(rows, call)
            except _TryAgainError as error:
                answers = [failed("server_unavailable", error.reason, retryable=True)] * len(
                    waiting
                )
                retry_after = error.retry_after
            for index, result in zip(waiting, answers, strict=True):
                results[index] = result
            failures = {i: f for i in waiting if (f := results[i].failure) and f.retryable}
            waits = [f.retry_after_s for f in failures.values() if f.retry_after_s is not None]
            if retry_after is None and waits:
                retry_after = max(waits)
            waiting = list(failures)
            pause = pause_s(
                attempt, first_s=_FIRST_PAUSE_S, most_s=_MOST_PAUSE_S, retry_after_s=retry_after
            )
            if not waiting or not call.wait(pause):
                break
            attempt += 1
        return results

    def _halves(self, rows: Sequence[bytes], call: Call) -> list[Result]:
        if len(rows) == 1:
            raise RefusedError("the server does not take a row this large", "too_large")
        middle = len(rows) // 2
        return self._grade(rows[:middle], call) + self._grade(rows[middle:], call)

    def _ask(self, rows: Sequence[bytes], call: Call) -> list[Result]:
        """Return the results of one request."""
        body = b'{"rows":[' + b",".join(rows) + b"]}"
        try:
            status, header, answer = self._post(body, call)
        except SSLCertVerificationError as error:
            raise RefusedError(f"{self.source.url}: {error.verify_message}", "tls") from error
        except (OSError, HTTPException) as error:
            reason = f"no answer from {self.source.url}: {type(error).__name__}"
            raise _TryAgainError(reason) from error
        if status == _OK:
            try:
                return decode_results(answer, len(rows))
            except ValueError as error:
                raise _TryAgainError(f"the answer is none: {error}") from error
        if status == _TOO_LARGE:
            raise _TooLargeError
        reason = f"{self.source.url} answered {status}: {_detail(answer)}"
        if status in _RETRIED:
            raise _TryAgainError(reason, retry_after_s(header, now_s=time.time()))
        raise RefusedError(reason, f"http_{status}")

    def _post(self, body: bytes, call: Call) -> tuple[int, str | None, bytes]:
        """Return status, ``Retry-After`` and body; a dead idle connection is replaced once."""
        connection, used = self._connections.take()
        try:
            return self._exchange(connection, body, call)
        except ConnectionError:  # closed by the server while idle
            if not used or not call.remaining():
                raise
            self._connections.forget()
        connection, _ = self._connections.take()
        return self._exchange(connection, body, call)

    def _exchange(
        self, connection: HTTPConnection, body: bytes, call: Call
    ) -> tuple[int, str | None, bytes]:
        keep = False
        try:
            with call.using(connection):
                _bound(connection, call)
                connection.request("POST", self.source.path, body, self._headers)
                response = connection.getresponse()
                answer = _read(connection, response, call)
                keep = not response.will_close
                return response.status, response.getheader("Retry-After"), answer
        finally:
            if keep and call.remaining():
                self._connections.give(connection)
            else:
                connection.close()


def _bound(connection: HTTPConnection, call: Call) -> None:
    """Let no socket operation outlast the call."""
    seconds = call.remaining()
    if not seconds:
        raise TimeoutError("the deadline passed")
    connection.timeout = seconds
    if connection.sock is not None:
        connection.sock.settimeout(seconds)


def _read(connection: HTTPConnection, response: HTTPResponse, call: Call) -> bytes:
    parts: list[bytes] = []
    size = 0
    while part := response.read1(_READ_BYTES):
        parts.append(part)
        size += len(part)
        if size > _MAX_ANSWER_BYTES:
            raise HTTPException("the answer is too large")
        _bound(connection, call)
    if response.length:
        raise HTTPException("the answer was cut off")
    response.read()  # nothing is left; ends the answer, so that the connection can be used again
    return b"".join(parts)


def _detail(answer: bytes) -> str:
    """Return what a problem document says, else nothing of a body that is not ours."""
    try:
        problem = json.loads(answer)
    except (ValueError, RecursionError):
        return "no problem document"
    detail = problem.get("detail") if isinstance(problem, dict) else None
    return str(detail)[:500] if detail else "no detail"


def _batches(rows: Sequence[bytes], most: int) -> Iterator[list[bytes]]:
    """Yield runs of rows of at most ``most`` rows and, if they are several, 8 MiB."""
    batch: list[bytes] = []
    size = 0
    for row in rows:
        if batch and (len(batch) == most or size + len(row) > _MAX_BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(row)
        size += len(row)
    if batch:
        yield batch
