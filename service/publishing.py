"""Definitions published over HTTP: kept in the store, compiled and served by every replica.

The files of this process come first: nobody publishes under their names. A replica looks every
second whether anything is new, and at once when it is asked for a version that it does not know, so
a version can be used everywhere as soon as its publisher has the answer; ``latest`` and labels
follow within that second. What a replica serves it goes on serving without the store, and gives it
back to a store that lost it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any, ClassVar, Final

from graders.building import Options
from graders.errors import (
    DefinitionError,
    Finding,
    UnknownGraderError,
    UnknownVersionError,
    UpstreamError,
)
from graders.registry import Definition, define, label_problem, name_problem
from service.definitions import Definitions
from service.logs import event
from service.problems import ConflictError, NotAvailableError
from service.stores import Contents, Document, Documents

logger = logging.getLogger(__name__)

_LOOK_S: Final = 1.0
_MAX_LABELS: Final = 100  # of one grader


class PublishingUnavailableError(UpstreamError):
    """The store that keeps what is published does not answer; grading goes on without it."""

    code: ClassVar[str] = "publishing_unavailable"


class Publications:
    """Publishes, and keeps `Definitions` up to date with what others have published.

    Args:
        documents: Where publications are kept.
        definitions: What serves them.
        options: How they are compiled.
        most: Versions that may be kept in all; 0 refuses publishing.
        refusal: Why this process cannot publish, if it cannot.
    """

    def __init__(
        self,
        documents: Documents,
        definitions: Definitions,
        options: Options,
        *,
        most: int,
        refusal: str | None = None,
    ) -> None:
        """Know nothing yet; `refresh` looks."""
        self._documents = documents
        self._definitions = definitions
        self._options = options
        self._most = most
        self._refusal = refusal
        self._known: dict[tuple[str, int], Definition] = {}
        self._labels: dict[str, dict[str, int]] = {}
        self._unusable: dict[str, str] = {}
        self._revision = 0
        self._looks = 0
        self._answered = True
        self._lock = asyncio.Lock()

    @property
    def state(self) -> dict[str, Any]:
        """What ``/readyz`` shows: versions served, and those that cannot be, with the reason."""
        return {"published": len(self._known), "unusable": dict(self._unusable)}

    async def find(self, name: str, version: str) -> Definition:
        """Return a definition; looks into the store for one that is unknown here.

        Raises:
            UnknownGraderError, UnknownVersionError: There is none.
            PublishingUnavailableError: There is none here, and the store does not answer.
        """
        try:
            return self._definitions.get(name, version)
        except (UnknownGraderError, UnknownVersionError):
            if self._refusal is not None or self._definitions.is_from_files(name):
                raise
        if not await self.refresh():
            raise _away()
        return self._definitions.get(name, version)

    async def publish(self, name: str, text: bytes) -> tuple[Definition, bool]:
        """Keep ``text`` as the next version of ``name``; return it, and whether it is new.

        A document that is there already, in other words or not, keeps its version.

        Raises:
            DefinitionError: With everything that is wrong in it.
            ConflictError: The name belongs to files, or there are as many as there may be.
            NotAvailableError: This process cannot publish.
            PublishingUnavailableError: The store does not answer.
        """
        self._refuse_unless_possible(name)
        definition = define(name, 1, text, self._options)
        await self.refresh()
        above = max((version for known, version in self._known if known == name), default=0)
        appended = await self._documents.append(
            name, definition.digest, text, above=above, most=self._most
        )
        if appended.state == "full":
            raise ConflictError(f"{self._most} versions are published; there may be no more.")
        if appended.state == "away":
            raise _away()
        return await self.find(name, str(appended.version)), appended.state == "new"

    async def label(self, name: str, label: str, version: int | None) -> None:
        """Point ``label`` at a version of ``name``, or take it away with None.

        Raises:
            DefinitionError: It cannot be a label.
            UnknownGraderError, UnknownVersionError: There is no such version.
            ConflictError: The name belongs to files, or has as many labels as it may have.
            NotAvailableError: This process cannot publish.
            PublishingUnavailableError: The store does not answer.
        """
        self._refuse_unless_possible(name)
        problem = label_problem(label)
        if problem is not None:
            raise DefinitionError([Finding(pointer="", message=problem, code="invalid_label")])
        await self.find(name, "latest" if version is None else str(version))
        labels = self._labels.get(name, {})
        if version is not None and label not in labels and len(labels) >= _MAX_LABELS:
            raise ConflictError(f"{name} has {_MAX_LABELS} labels; there may be no more.")
        if not await self._documents.label(name, label, version):
            raise _away()
        await self.refresh()

    async def follow(self) -> None:
        """Look for what others publish, until cancelled."""
        while True:
            try:
                await self.refresh()
            except Exception:  # the outermost handler of this task
                logger.exception("published definitions cannot be read")
            await asyncio.sleep(_LOOK_S)

    async def refresh(self) -> bool:
        """Serve what is in the store now; return False when it does not answer.

        Whoever asks while others wait shares the look that begins next.
        """
        asked = self._looks
        async with self._lock:
            if self._looks == asked:
                self._looks += 1
                self._answered = await self._look()
            return self._answered

    async def _look(self) -> bool:
        revision = await self._documents.revision()
        if revision is None or revision == self._revision:
            return revision is not None
        contents = await self._documents.contents()
        if contents is not None and self._known.keys() - contents.digests.keys():
            contents = await self._restored(contents)
        return contents is not None and await self._adopt(contents)

    async def _restored(self, contents: Contents) -> Contents | None:
        """Give the store back what it lost; return what it has then."""
        lost = [
            Document(name, version, definition.digest, definition.document)
            for (name, version), definition in self._known.items()
            if (name, version) not in contents.digests
        ]
        if not await self._documents.restore(lost):
            return None
        for name, labels in self._labels.items():
            for label, version in labels.items():
                if label not in contents.labels.get(name, {}):
                    await self._documents.label(name, label, version)
        event(logger, logging.WARNING, "published definitions restored", {"versions": len(lost)})
        return await self._documents.contents()

    async def _adopt(self, contents: Contents) -> bool:
        wanted = [key for key in contents.digests if key not in self._known]
        documents = await self._documents.fetch(wanted)
        if documents is None:
            return False
        known = self._known
        self._unusable = self._changed(contents.digests)
        for document in documents:
            try:
                definition = define(document.name, document.version, document.text, self._options)
            except DefinitionError as error:
                self._unusable[f"{document.name}@{document.version}"] = str(error)
            else:
                known[document.name, document.version] = definition
            await asyncio.sleep(0)  # compiling takes a millisecond
        self._labels = {
            name: {
                label: number for label, number in labels.items() if (name, number) in self._known
            }
            for name, labels in contents.labels.items()
        }
        self._revision = contents.revision
        self._definitions.adopt_published(list(known.values()), self._labels)
        fields = {"versions": len(known), "unusable": self._unusable}
        event(logger, logging.INFO, "published definitions loaded", fields)
        return True

    def _changed(self, digests: Mapping[tuple[str, int], str]) -> dict[str, str]:
        """Return the versions that are another document in the store; ours stay, unchanged."""
        return {
            f"{name}@{version}": "the store has another document under this version"
            for (name, version), digest in digests.items()
            if (known := self._known.get((name, version))) is not None and known.digest != digest
        }

    def _refuse_unless_possible(self, name: str) -> None:
        if self._refusal is not None or not self._most:
            raise NotAvailableError(
                self._refusal or "publishing is switched off: GRADEKEEPER_MAX_PUBLISHED is 0"
            )
        problem = name_problem(name)
        if problem is not None:
            raise DefinitionError([Finding(pointer="", message=problem, code="invalid_name")])
        if self._definitions.is_from_files(name):
            raise ConflictError(f"{name} is defined in files, which nobody can publish over.")


def _away() -> PublishingUnavailableError:
    return PublishingUnavailableError("the store of published definitions does not answer")
