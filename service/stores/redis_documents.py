"""Published definitions in Redis."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from service.stores.batch import AWAY, Batcher
from service.stores.documents import Appended, Contents, Document

_FETCH: Final = 64  # documents read at once


class RedisDocuments:
    """Published definitions in Redis, in keys that share the tag ``{definitions}``.

    Args:
        batch: The way to Redis.
        prefix: Of all keys.
    """

    def __init__(self, batch: Batcher, prefix: str) -> None:
        """Use ``batch``; nothing connects yet."""
        self._batch = batch
        base = f"{prefix}:{{definitions}}"
        self._texts = f"{base}:texts"
        self._digests = f"{base}:digests"
        self._latest = f"{base}:latest"
        self._labels = f"{base}:labels"
        self._revision = f"{base}:revision"

    async def append(
        self, name: str, digest: str, text: bytes, *, above: int, most: int
    ) -> Appended:
        """Keep a document as the next version of ``name``, in one step."""
        keys = (self._texts, self._digests, self._latest, self._revision)
        answer = await self._eval("publish", _APPEND, keys, name, digest, text, above, most)
        match answer:
            case [0, 0]:
                return Appended("full")
            case [int(version), int(new)]:
                return Appended("new" if new else "known", version)
            case _:
                return Appended("away")

    async def label(self, name: str, label: str, version: int | None) -> bool:
        """Point ``label`` at a version, or take it away with None; False when away."""
        keys = (self._labels, self._revision)
        answer = await self._eval("label", _LABEL, keys, f"{name}@{label}", version or 0)
        return type(answer) is int

    async def revision(self) -> int | None:
        """Return what every change raises; None when Redis cannot say."""
        answer = await self._batch.step("revision", "GET", self._revision)
        return 0 if answer is None else _number(answer)

    async def contents(self) -> Contents | None:
        """Return what there is, as of one moment; None when Redis cannot say."""
        keys = (self._digests, self._labels, self._revision)
        match await self._eval("contents", _CONTENTS, keys):
            case [bytes(revision), list(digests), list(labels)]:
                return _contents(revision, digests, labels)
            case _:
                return None

    async def fetch(self, wanted: Sequence[tuple[str, int]]) -> list[Document] | None:
        """Return the documents that are there; None when Redis cannot say."""
        found: list[Document] = []
        for start in range(0, len(wanted), _FETCH):
            part = wanted[start : start + _FETCH]
            fields = [f"{name}@{version}" for name, version in part]
            texts = await self._batch.step("documents", "HMGET", self._texts, *fields)
            digests = await self._batch.step("documents", "HMGET", self._digests, *fields)
            if texts is AWAY or digests is AWAY:
                return None
            found += [
                Document(name, version, digest.decode(), text)
                for (name, version), digest, text in zip(part, digests, texts, strict=True)
                if digest is not None and text is not None
            ]
        return found

    async def restore(self, documents: Sequence[Document]) -> bool:
        """Keep what is missing; False when away."""
        keys = (self._texts, self._digests, self._latest, self._revision)
        for document in documents:
            answer = await self._eval(
                "restore",
                _RESTORE,
                keys,
                document.name,
                document.version,
                document.digest,
                document.text,
            )
            if type(answer) is not int:
                return False
        return True

    async def _eval(
        self, operation: str, script: str, keys: Sequence[str], *arguments: str | bytes | int
    ) -> Any:  # noqa: ANN401 - what the script returns
        return await self._batch.step(operation, "EVAL", script, len(keys), *keys, *arguments)


_CHANGED: Final = """\
local changed = function(key)
  if redis.call('INCR', key) == 1 then
    local t = redis.call('TIME')
    redis.call('SET', key, t[1] .. string.format('%06d', t[2]))
  end
end
"""
# Counts from the time, so that a store that lost everything never repeats a revision.

_APPEND: Final = (
    _CHANGED
    + """\
local last = math.max(tonumber(redis.call('HGET', KEYS[3], ARGV[1]) or '0'), tonumber(ARGV[4]))
for i = 1, last do
  if redis.call('HGET', KEYS[2], ARGV[1] .. '@' .. i) == ARGV[2] then return {i, 0} end
end
if redis.call('HLEN', KEYS[1]) >= tonumber(ARGV[5]) then return {0, 0} end
local field = ARGV[1] .. '@' .. last + 1
redis.call('HSET', KEYS[1], field, ARGV[3])
redis.call('HSET', KEYS[2], field, ARGV[2])
redis.call('HSET', KEYS[3], ARGV[1], last + 1)
changed(KEYS[4])
return {last + 1, 1}
"""
)
"""KEYS texts, digests, latest, revision; ARGV name, digest, text, above, most → version, new."""

_LABEL: Final = (
    _CHANGED
    + """\
if ARGV[2] == '0' then redis.call('HDEL', KEYS[1], ARGV[1])
else redis.call('HSET', KEYS[1], ARGV[1], ARGV[2]) end
changed(KEYS[2])
return 1
"""
)
"""KEYS labels, revision; ARGV name@label, version or 0 → 1."""

_CONTENTS: Final = """\
return {redis.call('GET', KEYS[3]) or '0', redis.call('HGETALL', KEYS[1]), \
redis.call('HGETALL', KEYS[2])}
"""
"""KEYS digests, labels, revision → revision, digests, labels."""

_RESTORE: Final = (
    _CHANGED
    + """\
local field = ARGV[1] .. '@' .. ARGV[2]
if redis.call('HSETNX', KEYS[1], field, ARGV[4]) == 0 then return 0 end
redis.call('HSET', KEYS[2], field, ARGV[3])
local last = tonumber(redis.call('HGET', KEYS[3], ARGV[1]) or '0')
redis.call('HSET', KEYS[3], ARGV[1], math.max(last, tonumber(ARGV[2])))
changed(KEYS[4])
return 1
"""
)
"""KEYS texts, digests, latest, revision; ARGV name, version, digest, text → 1 kept | 0 there."""


def _contents(revision: bytes, digests: list[bytes], labels: list[bytes]) -> Contents | None:
    """Return what Redis told; None for what nobody of us wrote."""
    try:
        marks: dict[str, dict[str, int]] = {}
        for name, label, version in _fields(labels):
            marks.setdefault(name, {})[label] = int(version)
        found = {(name, int(version)): digest for name, version, digest in _fields(digests)}
        return Contents(revision=int(revision), digests=found, labels=marks)
    except ValueError:  # of which a wrong encoding is a kind
        return None


def _fields(flat: list[bytes]) -> Iterator[tuple[str, str, str]]:
    """Yield what stands on both sides of the "@" of every field, and its value."""
    for field, value in zip(flat[::2], flat[1::2], strict=True):
        name, _, rest = field.decode().partition("@")
        yield name, rest, value.decode()


def _number(answer: object) -> int | None:
    return int(answer) if isinstance(answer, bytes) and answer.isdigit() else None
