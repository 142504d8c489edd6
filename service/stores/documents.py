"""Published definitions in a store: named, numbered from 1, never changed, never expiring.

Every change raises the revision, so that a replica learns with one small read whether there is
anything new. A store that lost everything (a Redis restarted empty) is given back what a replica
still has; what it keeps, it keeps unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

import msgspec

AppendState = Literal["new", "known", "full", "away"]


class Document(msgspec.Struct, frozen=True):
    """One version of a definition.

    Attributes:
        name: Of the grader.
        version: From 1.
        digest: Content address; equal digests are the same definition.
        text: The document, byte for byte.
    """

    name: str
    version: int
    digest: str
    text: bytes


class Appended(msgspec.Struct, frozen=True):
    """The answer to an attempt to publish.

    Attributes:
        state: ``new``; ``known``: this very document is version ``version`` already; ``full``: the
            store holds as many as it may; ``away``: the store cannot say.
        version: The version, with ``new`` and ``known``.
    """

    state: AppendState
    version: int = 0


class Contents(msgspec.Struct, frozen=True, kw_only=True):
    """What is published at one moment.

    Attributes:
        revision: Raised by every change, and never the same again; 0 for nothing at all.
        digests: Name and version → digest.
        labels: Name → label → version.
    """

    revision: int
    digests: Mapping[tuple[str, int], str]
    labels: Mapping[str, Mapping[str, int]]


class Documents(Protocol):
    """Where published definitions are kept."""

    async def append(
        self, name: str, digest: str, text: bytes, *, above: int, most: int
    ) -> Appended:
        """Keep a document as the next version of ``name``, unless one with this digest is there.

        Args:
            name: Of the grader.
            digest: Of ``text``.
            text: The document.
            above: Last version the caller knows; the new one is higher, even in a store that lost
                what it had.
            most: Documents that may be kept in all.
        """
        ...

    async def label(self, name: str, label: str, version: int | None) -> bool:
        """Point ``label`` at a version, or take it away with None; False when away."""
        ...

    async def revision(self) -> int | None:
        """Return the revision of `Contents`; None when the store cannot say."""
        ...

    async def contents(self) -> Contents | None:
        """Return what there is; None when the store cannot say."""
        ...

    async def fetch(self, wanted: Sequence[tuple[str, int]]) -> list[Document] | None:
        """Return the documents (name, version) that are there; None when the store cannot say."""
        ...

    async def restore(self, documents: Sequence[Document]) -> bool:
        """Keep documents that the store lost; what it has stays as it is. False when away."""
        ...


class MemoryDocuments:
    """Published definitions of one process; gone when it ends."""

    def __init__(self) -> None:
        """Start with none."""
        self._documents: dict[tuple[str, int], Document] = {}
        self._latest: dict[str, int] = {}
        self._labels: dict[str, dict[str, int]] = {}
        self._revision = 0

    async def append(
        self, name: str, digest: str, text: bytes, *, above: int, most: int
    ) -> Appended:
        """Keep a document as the next version of ``name``."""
        last = max(self._latest.get(name, 0), above)
        for version in range(1, last + 1):
            found = self._documents.get((name, version))
            if found is not None and found.digest == digest:
                return Appended("known", version)
        if len(self._documents) >= most:
            return Appended("full")
        self._keep(Document(name, last + 1, digest, text))
        return Appended("new", last + 1)

    async def label(self, name: str, label: str, version: int | None) -> bool:
        """Point ``label`` at a version, or take it away."""
        labels = self._labels.setdefault(name, {})
        if version is None:
            labels.pop(label, None)
        else:
            labels[label] = version
        self._revision += 1
        return True

    async def revision(self) -> int | None:
        """Return what every change raises."""
        return self._revision

    async def contents(self) -> Contents | None:
        """Return what there is."""
        labels = {name: dict(marks) for name, marks in self._labels.items()}
        digests = {key: document.digest for key, document in self._documents.items()}
        return Contents(revision=self._revision, digests=digests, labels=labels)

    async def fetch(self, wanted: Sequence[tuple[str, int]]) -> list[Document] | None:
        """Return the documents that are there."""
        return [self._documents[key] for key in wanted if key in self._documents]

    async def restore(self, documents: Sequence[Document]) -> bool:
        """Keep what is missing."""
        for document in documents:
            if (document.name, document.version) not in self._documents:
                self._keep(document)
        return True

    def _keep(self, document: Document) -> None:
        self._documents[document.name, document.version] = document
        self._latest[document.name] = max(self._latest.get(document.name, 0), document.version)
        self._revision += 1
