"""Grades in this process, without a server: the same engine on the same bytes.

Needs msgspec and rapidfuzz, which `graders` needs. Definitions that ask something outside (judge
models, Python graders) need ``ports``; their event loop runs in a thread of its own, so that plain
functions, any event loop of the trainer and forked workers can use it.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
from collections.abc import Coroutine, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from graders.building import Item, Options
from graders.engine import CompiledGrader, compile_grader
from graders.errors import DefinitionError
from graders.grade import Grade
from graders.metrics import WordNet, WordNetNotFoundError
from graders.ports import Ports
from graders.sample import Sample
from service.trainers.errors import RefusedError
from service.trainers.rows import Failure, Result, failed
from service.trainers.source import Source

T = TypeVar("T")

_CONCURRENCY = 64


class _Row(msgspec.Struct, frozen=True):
    item: dict[str, Any]
    model_sample: str = ""
    sample: dict[str, Any] | None = None


class InProcess:
    """A scorer in this process; see `reward.Scorer`."""

    def __init__(self, source: Source) -> None:
        """Compile the definition.

        Raises:
            RefusedError: The definition cannot be used, or asks something outside without ports.
        """
        self.source = source
        self._grader = _compiled(source.definition or "")
        if not self._grader.is_pure and source.ports is None:
            message = "this definition asks judges or runs code: use url, or give ports"
            raise RefusedError(message, "not_available")
        self._ports: Ports = source.ports or Ports()
        self._decode = msgspec.json.Decoder(_Row).decode
        self._loops: dict[int, asyncio.AbstractEventLoop] = {}

    def score(self, rows: Sequence[bytes]) -> list[Result]:
        """Return one result a row, in order; failures are results too."""
        read = self._read(rows)
        if self._grader.is_pure:
            return [self._result(self._grader.grade_now(item, sample)) for item, sample in read]
        return self._run(self._graded(read)).result()

    async def score_async(self, rows: Sequence[bytes]) -> list[Result]:
        """Return the same without holding up the event loop; being cancelled frees the work."""
        if self._grader.is_pure:
            return await asyncio.to_thread(self.score, rows)
        return await asyncio.wrap_future(self._run(self._graded(self._read(rows))))

    def _read(self, rows: Sequence[bytes]) -> list[tuple[Item, Sample]]:
        decoded = map(self._decode, rows)
        return [
            (
                row.item,
                Sample(row.model_sample) if row.sample is None else Sample.from_answer(row.sample),
            )
            for row in decoded
        ]

    async def _graded(self, rows: Sequence[tuple[Item, Sample]]) -> list[Result]:
        """Return the results there are when the deadline passes; the rest is cancelled."""
        places = asyncio.Semaphore(_CONCURRENCY)

        async def grade(item: Item, sample: Sample) -> Grade:
            async with places:
                return await self._grader.grade(item, sample, self._ports)

        tasks = [asyncio.ensure_future(grade(item, sample)) for item, sample in rows]
        if not tasks:
            return []
        try:
            await asyncio.wait(tasks, timeout=self.source.deadline_s)
        finally:
            late = [task for task in tasks if task.cancel()]
            await asyncio.gather(*late, return_exceptions=True)
        return [self._late() if task.cancelled() else self._result(task.result()) for task in tasks]

    def _late(self) -> Result:
        return failed("deadline_exceeded", "the deadline passed before it was graded")

    def _result(self, grade: Grade) -> Result:
        if grade.ok:
            passed = grade.reward >= self._grader.threshold
            return Result(reward=grade.reward, passed=passed, sub_rewards=grade.sub_rewards)
        failure = grade.upstream_failure or grade.failures[0]
        return Result(
            reward=None,
            sub_rewards=grade.sub_rewards,
            failure=Failure(
                code=failure.code,
                message=failure.message,
                outage=failure.upstream,
                retryable=failure.retryable,
                retry_after_s=failure.retry_after_s,
            ),
        )

    def _run(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Start ``work`` on this process's event loop; a parent's did not survive the fork."""
        process = os.getpid()
        if process not in self._loops:
            fresh = asyncio.new_event_loop()
            if self._loops.setdefault(process, fresh) is fresh:
                threading.Thread(target=fresh.run_forever, name="gradekeeper", daemon=True).start()
            else:
                fresh.close()
        return asyncio.run_coroutine_threadsafe(work, self._loops[process])


def _compiled(definition: str) -> CompiledGrader:
    try:
        text = definition if definition.startswith("{") else Path(definition).read_text("utf-8")
        document = json.loads(text)
        if isinstance(document, dict):
            document.setdefault("name", "grader")
    except (OSError, ValueError) as error:
        raise RefusedError(f"no definition can be read: {error}", "invalid_definition") from error
    wordnet, hint = _wordnet(Path(sys.prefix) / "share" / "wordnet", Path("/usr/share/wordnet"))
    options = Options(synonyms=wordnet.synonyms if wordnet else None, synonyms_hint=hint)
    try:
        return compile_grader(document, options, purpose="store")
    except DefinitionError as error:
        raise RefusedError(str(error), "invalid_definition") from error


def _wordnet(*places: Path) -> tuple[WordNet | None, str]:
    """Return WordNet from the first of ``places`` that has it, else how to get it."""
    hint = ""
    for place in places:
        wordnet = WordNet(place)
        try:
            wordnet.verify()
        except WordNetNotFoundError as error:
            hint = str(error)
        else:
            return wordnet, ""
    return None, hint
