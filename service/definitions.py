"""The definitions being served, and what is prepared once for each of them.

Reading them again either replaces all of them or changes nothing: a broken file, or one that would
change a version which this process has served, keeps the old set in force and shows in the log, in
``/readyz`` and in the metrics.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from stat import S_ISREG
from typing import Any, TypedDict

import msgspec

from graders import registry
from graders.building import Options
from graders.engine import CompiledGrader, Purpose, compile_grader
from graders.errors import DefinitionError, Finding
from graders.registry import BrokenDefinitionsError, Definition, Registry
from service.counting import Counts, GradeCounter
from service.judge import Sampling
from service.lean import decode
from service.logs import event
from service.wire import BatchRequest, ScoreRequest

logger = logging.getLogger(__name__)

_MAX_CACHED_GRADER_BYTES = 64 * 1024
_DECODED_AT_ONCE_BYTES = 4 * 1024 * 1024
_TURN_S = 0.004  # how long decoding may keep the event loop


class _UnreadRows(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A `BatchRequest` whose rows are still JSON."""

    rows: list[msgspec.Raw]
    sampling: Sampling | None = None


_find_rows = msgspec.json.Decoder(_UnreadRows).decode


class Definitions:
    """Serves look-ups and reloads.

    Attributes:
        registry: The definitions in force.
        failure: Why the last reload was refused; None when it worked.
    """

    def __init__(self, directories: Sequence[Path], options: Options, counts: Counts) -> None:
        """Load everything.

        Raises:
            BrokenDefinitionsError: With every finding of every file.
        """
        self._directories = tuple(directories)
        self._options = options
        self._counts = counts
        self._metrics = counts.metrics
        self._stamp = self._state_of_files()
        self.failure: str | None = None
        self._published: Sequence[Definition] = ()
        self._labels: Mapping[str, Mapping[str, int]] = {}
        # Also of what is gone since: callers may hold grades of it.
        self._served: dict[tuple[str, int], str] = {}
        self._adopt(registry.load(self._directories, options))
        self._tell_unpinned()

    def _adopt(self, loaded: Registry) -> None:
        self._files = loaded
        self._join()
        self._metrics.reload_failed.set(0)
        self.failure = None

    def _join(self) -> None:
        self.registry = self._files.joined(self._published, self._labels)
        self._counters: dict[tuple[str, int], GradeCounter] = {}
        self._decoders: dict[tuple[str, int], RowDecoders] = {}
        for definition in _every(self.registry):
            self._served.setdefault((definition.name, definition.version), definition.digest)
        self._metrics.definitions.set(len(self.registry))

    def _tell_unpinned(self) -> None:
        """Say once which directories could come back changed after a restart."""
        homes = [each.folder.parent for each in _every(self._files) if each.folder is not None]
        for directory in self._directories:
            if directory in homes and not (directory / registry.LOCK).exists():
                fields = {"directory": str(directory), "versions": homes.count(directory)}
                event(logger, logging.INFO, "definitions without a lock", fields)

    def adopt_published(
        self, published: Sequence[Definition], labels: Mapping[str, Mapping[str, int]]
    ) -> None:
        """Serve what was published, too; where files define the same name, they win."""
        self._published, self._labels = published, labels
        self._join()

    def is_from_files(self, name: str) -> bool:
        """Return whether files define ``name``, and nobody may publish under it."""
        return name in self._files.names()

    def reload(self) -> bool:
        """Read every directory again; return whether the new set is in force."""
        self._stamp = self._state_of_files()
        try:
            loaded = registry.load(self._directories, self._options)
            self._refuse_changed(loaded.joined(self._published, self._labels))
        except (BrokenDefinitionsError, OSError) as error:
            self.failure = str(error)
            self._metrics.reload_failed.set(1)
            self._metrics.reloads.labels("failed").inc()
            fields = {"findings": str(error).splitlines()}
            event(logger, logging.ERROR, "definitions kept: the new ones are broken", fields)
            return False
        self._adopt(loaded)
        self._metrics.reloads.labels("ok").inc()
        event(logger, logging.INFO, "definitions loaded", {"versions": len(loaded)})
        return True

    def _refuse_changed(self, loaded: Registry) -> None:
        """Refuse other content under the number of a version that was served.

        Raises:
            BrokenDefinitionsError: With a finding for every such file.
        """
        findings = {}
        for definition in _every(loaded):
            served = self._served.get((definition.name, definition.version), definition.digest)
            if served != definition.digest:
                message = (
                    f"{definition.name}@{definition.version} is served as {served}, and this is "
                    f"{definition.digest}; versions are immutable: put it back, add a new one."
                )
                file = f"{definition.folder or 'published'}/{definition.version}.json"
                found = Finding(pointer="", message=message, code="changed_version")
                findings[file] = [found]
        if findings:
            raise BrokenDefinitionsError(findings)

    def reload_if_changed(self) -> None:
        """Reload when a file below the directories is new, gone or changed."""
        if self._state_of_files() != self._stamp:
            self.reload()

    def _state_of_files(self) -> frozenset[tuple[str, int, int]]:
        return frozenset(
            state
            for directory in self._directories
            for path in _below(directory)
            if (state := _state(path)) is not None
        )

    def get(self, name: str, version: str) -> Definition:
        """Return a definition by version number, ``latest`` or label.

        Raises:
            UnknownGraderError, UnknownVersionError: There is none.
        """
        return self.registry.get(name, version)

    def counter(self, definition: Definition) -> GradeCounter:
        """Return what counts the grades of ``definition``."""
        key = (definition.name, definition.version)
        counter = self._counters.get(key)
        if counter is None:
            kind = definition.grader.type
            counter = self._counts.of(definition.name, definition.version, kind)
            self._counters[key] = counter
        return counter

    def decoders(self, definition: Definition) -> RowDecoders:
        """Return what decodes rows for ``definition``."""
        key = (definition.name, definition.version)
        decoders = self._decoders.get(key)
        if decoders is None:
            decoders = self._decoders[key] = RowDecoders(definition.grader)
        return decoders


class RowDecoders:
    """Decodes rows, and of every item only the keys that the templates of one grader mention.

    A grader that hands the whole item on (Python, endpoint) gets the whole item. Halves the time of
    a batch (spec/performance.md §3).

    Attributes:
        row: Decodes one line of NDJSON.
    """

    def __init__(self, grader: CompiledGrader) -> None:
        """Derive the decoders' types from the paths of ``grader``."""
        if grader.paths is None:
            self._batch: msgspec.json.Decoder[Any] = msgspec.json.Decoder(BatchRequest)
            self.row: msgspec.json.Decoder[Any] = msgspec.json.Decoder(ScoreRequest)
            return
        keys = {str(path.steps[0]) for path in grader.paths if path.namespace == "item"}
        item = TypedDict("item", dict.fromkeys(keys, Any), total=False)  # type: ignore[misc] # made at run time
        row = msgspec.defstruct(
            "ScoreRequest",
            [("item", item, msgspec.field(default_factory=dict))],
            bases=(ScoreRequest,),
            frozen=True,
            gc=False,  # what is decoded from JSON has no cycles
            kw_only=True,
            forbid_unknown_fields=True,
        )
        batch = msgspec.defstruct(
            "BatchRequest",
            [
                ("rows", list[row]),  # type: ignore[valid-type] # made at run time
                ("sampling", Sampling | None, None),
            ],
            frozen=True,
            forbid_unknown_fields=True,
        )
        self._batch = msgspec.json.Decoder(batch)
        self.row = msgspec.json.Decoder(row)

    async def batch(self, body: bytes) -> BatchRequest:
        """Return a JSON batch; a large one is decoded in turns with other requests.

        Raises:
            SerializationException: The body is no batch; the message names the place.
        """
        if len(body) > _DECODED_AT_ONCE_BYTES:
            # What is wrong with a row is said below, with its place in the batch.
            with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                return await self._batch_in_turns(body)
        batch: BatchRequest = decode(self._batch, body)
        return batch

    async def _batch_in_turns(self, body: bytes) -> BatchRequest:
        await asyncio.sleep(0)
        found = _find_rows(body)
        rows: list[ScoreRequest] = []
        ends = 0.0
        for raw in found.rows:
            if time.perf_counter() > ends:
                await asyncio.sleep(0)
                ends = time.perf_counter() + _TURN_S
            rows.append(self.row.decode(raw))
        return BatchRequest(rows=rows, sampling=found.sampling)


class AdHocGraders:
    """Compiles graders that come with the request, and keeps the last ones.

    Keyed by the posted bytes: trainers post the same text a thousand times.
    """

    def __init__(self, options: Options, entries: int) -> None:
        """Keep at most ``entries`` compiled graders."""
        self._options = options
        self._entries = entries
        self._compiled: OrderedDict[bytes, CompiledGrader] = OrderedDict()

    def compile(self, raw: bytes, purpose: Purpose) -> CompiledGrader:
        """Return the grader written in ``raw``.

        Raises:
            DefinitionError: It is none; with every finding.
        """
        if purpose != "run":
            return compile_grader(_document(raw), self._options, purpose=purpose)
        known = self._compiled.get(raw)
        if known is not None:
            self._compiled.move_to_end(raw)
            return known
        grader = compile_grader(_document(raw), self._options, purpose=purpose)
        if self._entries and len(raw) <= _MAX_CACHED_GRADER_BYTES:
            self._compiled[raw] = grader
            if len(self._compiled) > self._entries:
                self._compiled.popitem(last=False)
        return grader


def _document(raw: bytes) -> Any:  # noqa: ANN401 - JSON
    """Return a posted grader as JSON; `msgspec.Raw` was only skipped over until now.

    Raises:
        DefinitionError: It is not UTF-8, or holds numbers that nothing can keep.
    """
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        message = f"The grader cannot be read: {error}."
        raise DefinitionError(
            [Finding(pointer="", message=message, code="invalid_json")]
        ) from error


def _every(definitions: Registry) -> Iterator[Definition]:
    for name in definitions.names():
        yield from definitions.versions(name)


def _below(directory: Path) -> Iterator[Path]:
    """Yield what is below ``directory``, up to a folder that goes while it is walked."""
    with contextlib.suppress(OSError):
        yield from directory.rglob("*")


def _state(path: Path) -> tuple[str, int, int] | None:
    """Return what changes with the file at ``path``; None for what is no file, or just went."""
    try:
        status = path.stat()
    except OSError:
        return None
    return (str(path), status.st_mtime_ns, status.st_size) if S_ISREG(status.st_mode) else None
