"""Who may call what: keys with scopes, kept as hashes and looked up by hash.

A presented key is hashed and its digest looked up, so that no comparison ever depends on how much
of a secret was guessed right. Where neither a key nor a keys file is configured, every caller may
do everything (the service then listens on loopback only, unless the operator insists); a keys file
without keys lets nobody in.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from pathlib import Path
from typing import Literal, TypeAlias, get_args

import msgspec

Scope: TypeAlias = Literal["score", "run", "publish", "metrics"]
SCOPES: frozenset[str] = frozenset(get_args(Scope))
KEY_PREFIX = "gk-"
_SHA256_HEX_CHARS = 64
_SHAPE = (
    "expected an array of what `gradekeeper key` writes, "
    '[{"name": "…", "sha256": "…", "scopes": ["score"]}, …]'
)


class KeysError(ValueError):
    """A keys file that cannot be used."""


class Key(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One key as stored: never the secret itself.

    Attributes:
        name: For logs and metrics.
        sha256: Hex SHA-256 of the secret.
        scopes: ``score`` named graders, ``run`` ad-hoc graders, ``publish``, ``metrics``.
    """

    name: str
    sha256: str
    scopes: frozenset[Scope] = frozenset({"score"})


class Keyring:
    """The keys in force.

    Attributes:
        is_open: Whether everybody may do everything: only where no key was ever asked for.
    """

    def __init__(self, keys: tuple[Key, ...] = (), *, is_open: bool = False) -> None:
        """Index the keys by the hash of their secret."""
        self._by_hash = {bytes.fromhex(key.sha256): key for key in keys}
        self.is_open = is_open

    def __len__(self) -> int:
        """Return the number of keys."""
        return len(self._by_hash)

    def find(self, secret: bytes) -> Key | None:
        """Return the key whose secret this is."""
        return self._by_hash.get(hashlib.sha256(secret).digest())


class KeySource:
    """Where keys come from: one from the settings, more from a file that may change."""

    def __init__(self, api_key: str, file: str) -> None:
        """Read both.

        Raises:
            KeysError: The file cannot be used.
        """
        self._file = Path(file) if file else None
        self._own = (_own_key(api_key),) if api_key else ()
        self._stamp: tuple[int, int, int] | None = None
        self.ring = Keyring(self._own, is_open=not self._own and self._file is None)
        self.refresh()

    def refresh(self) -> bool:
        """Read the file again if it changed; return whether it did.

        Raises:
            KeysError: The file cannot be used; the keys in force stay.
        """
        if self._file is None:
            return False
        try:
            status = os.stat(self._file)  # noqa: PTH116 - one call, three fields
            stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
            if stamp == self._stamp:
                return False
            keys = read_keys(self._file.read_bytes())
        except OSError as error:
            raise KeysError(f"{self._file}: {error.strerror}") from error
        self.ring = Keyring((*self._own, *keys))
        self._stamp = stamp
        return True


def _own_key(secret: str) -> Key:
    return Key(name="api_key", sha256=hash_of(secret), scopes=frozenset(get_args(Scope)))


def hash_of(secret: str) -> str:
    """Return the hex SHA-256 under which ``secret`` is stored."""
    return hashlib.sha256(secret.encode()).hexdigest()


def new_secret() -> str:
    """Return a fresh secret of 256 bits."""
    return KEY_PREFIX + secrets.token_urlsafe(32)


def read_keys(text: bytes) -> tuple[Key, ...]:
    """Return the keys of a keys file: a JSON array of ``{"name", "sha256", "scopes"}``.

    Raises:
        KeysError: The text is something else; the message names the place.
    """
    try:
        keys = msgspec.json.decode(text, type=tuple[Key, ...])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise KeysError(f"the keys file is unusable: {error}; {_SHAPE}") from error
    for key in keys:
        if len(key.sha256) != _SHA256_HEX_CHARS or not _is_hex(key.sha256):
            raise KeysError(f"key {key.name!r}: sha256 must be 64 hexadecimal digits")
    if len({key.name for key in keys}) != len(keys):
        raise KeysError("every key needs a name of its own")
    return keys


def _is_hex(text: str) -> bool:
    try:
        bytes.fromhex(text)
    except ValueError:
        return False
    return True
