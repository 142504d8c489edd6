"""Reads the hash-pinned locks of requirements/ and of the grader images."""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec
from packaging.requirements import Requirement

_ENTRY = re.compile(r"^([a-z0-9].*==[^\\\n]*?) *\\?\n((?:    --hash=.*\n?)*)", re.MULTILINE)
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")


class Pin(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a lock.

    Attributes:
        requirement: Name, exact version and marker.
        sha256: Of every file of this version that may be installed.
    """

    requirement: Requirement
    sha256: tuple[str, ...]

    def __str__(self) -> str:
        """Return name and version."""
        return f"{self.name}=={self.version}"

    @property
    def name(self) -> str:
        """Normalized name of the distribution."""
        return self.requirement.name

    @property
    def version(self) -> str:
        """The one version allowed."""
        return str(self.requirement.specifier).removeprefix("==")

    @property
    def is_for_here(self) -> bool:
        """Whether this platform and Python install it."""
        marker = self.requirement.marker
        return marker is None or marker.evaluate()


def read_pins(lock: str) -> Iterator[Pin]:
    """Yield every pin of ``lock``, whatever platform it is for."""
    for line, hashes in _ENTRY.findall(lock):
        yield Pin(requirement=Requirement(line), sha256=tuple(_HASH.findall(hashes)))
