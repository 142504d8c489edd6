"""Where rewards come from: a version on a server, or a definition in this process.

A `Source` holds plain values only, so that it can be pickled, compared and sent to workers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict
from urllib.parse import urlsplit

from service.trainers.errors import RefusedError
from service.trainers.rows import plain

# As `graders.registry` has them; an import from there would need msgspec.
_GRADER = re.compile(r"(?P<name>[a-z0-9]+(?:[-_.][a-z0-9]+)*)@(?P<version>[a-z0-9][a-z0-9._-]*)\Z")


class Where(TypedDict, total=False):
    """The keyword arguments by which every adapter is told where rewards come from.

    Attributes:
        url: Address of a gradekeeper server, such as ``http://grader:8080``.
        grader: ``name@version`` there; ``name@latest`` moves with every release.
        key: API key, sent as ``Authorization: Bearer …``.
        definition: Instead of url and grader: path of a grader JSON file, or the JSON itself.
        ports: For a definition that asks something outside: a `graders.ports.Ports`.
        deadline_s: Seconds a call may take, with all its batches, retries and pauses.
        batch_rows: Rows of one request.
        connections: Requests under way at once, from asyncio or for one call of several batches.
        ca_file: Certificate authorities for https, instead of the system's.
    """

    url: str
    grader: str
    key: str | None
    definition: str | Path | Mapping[str, Any] | None
    ports: Any
    deadline_s: float
    batch_rows: int
    connections: int
    ca_file: str | None


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where rewards come from; the fields are those of `Where`, ``definition`` as path or JSON."""

    url: str = ""
    grader: str = ""
    key: str | None = field(default=None, repr=False)
    definition: str | None = None
    ports: Any = None
    deadline_s: float = 120.0
    batch_rows: int = 256
    connections: int = 16
    ca_file: str | None = None

    @classmethod
    def of(cls, where: Mapping[str, Any]) -> Source:
        """Return the source that ``where`` describes.

        Raises:
            RefusedError: A key is unknown, or the values do not describe one source.
        """
        unknown = sorted(set(where) - set(Where.__annotations__))
        if unknown:
            known = ", ".join(Where.__annotations__)
            raise _refused(f"unknown setting {unknown[0]!r}; known are {known}")
        values = {key: value for key, value in where.items() if value is not None}
        definition = values.get("definition")
        if isinstance(definition, Mapping):
            values["definition"] = json.dumps(definition, sort_keys=True, default=plain)
        elif definition is not None:
            values["definition"] = str(Path(definition).absolute())
        source = cls(**values)
        source.check()
        return source

    def check(self) -> None:
        """Refuse what cannot work before the first rollout is paid for.

        Raises:
            RefusedError: With one sentence on what to write instead.
        """
        if min(self.deadline_s, self.batch_rows, self.connections) <= 0:
            raise _refused("deadline_s, batch_rows and connections must be above 0")
        if self.definition is not None:
            if self.url or self.grader:
                raise _refused("give either url and grader, or definition")
            return
        parts = urlsplit(self.url)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query:
            raise _refused("url must be the server's address, such as 'http://grader:8080'")
        if not _GRADER.match(self.grader):
            raise _refused("grader must be 'name@version', such as 'gene-ranking@3'")

    @property
    def path(self) -> str:
        """Path of the batch route on the server."""
        name, _, version = self.grader.partition("@")
        prefix = urlsplit(self.url).path.rstrip("/")
        return f"{prefix}/v1/graders/{name}/versions/{version}/score/batch"

    @property
    def name(self) -> str:
        """A name for logs and metrics: the grader's, or the definition's file name."""
        if self.definition is None:
            return self.grader.partition("@")[0]
        if self.definition.startswith("{"):
            return str(json.loads(self.definition).get("name") or "grader")
        return Path(self.definition).stem


def _refused(message: str) -> RefusedError:
    return RefusedError(message, "invalid_settings")
