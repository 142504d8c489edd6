"""A token that service and runner share, in a file, so that it can change under running processes.

The first line is the one to present; any line is accepted, so that the runner can be given the new
token beside the old one before the service presents it.
"""

from __future__ import annotations

import hmac
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_LOOK_S = 1.0


class TokenError(ValueError):
    """A token file that cannot be used."""


class TokenFile:
    """The tokens in a file, read again when it changes."""

    def __init__(self, path: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Read ``path``; an empty one means that no token is asked for.

        Raises:
            TokenError: It cannot be read, or holds no token.
        """
        self._path = Path(path) if path else None
        self._clock = clock
        self._next_look = clock() + _LOOK_S
        self._tokens = self._read() if self._path else ()

    @property
    def is_open(self) -> bool:
        """Whether no token is asked for."""
        return self._path is None

    @property
    def first(self) -> bytes | None:
        """The token to present."""
        self._refresh()
        return self._tokens[0] if self._tokens else None

    def accepts(self, token: bytes) -> bool:
        """Return whether ``token`` is one of them, in a time that does not tell how near it is."""
        self._refresh()
        found = [hmac.compare_digest(token, known) for known in self._tokens]
        return self.is_open or any(found)

    def _refresh(self) -> None:
        """Read the file again, at most once a second; an unusable one leaves the old tokens."""
        now = self._clock()
        if self._path is None or now < self._next_look:
            return
        self._next_look = now + _LOOK_S
        try:
            self._tokens = self._read()
        except TokenError:
            return

    def _read(self) -> tuple[bytes, ...]:
        path = self._path or Path()
        try:
            lines = path.read_bytes().split(b"\n")
        except OSError as error:
            raise TokenError(f"the token file cannot be read: {error.strerror}") from error
        tokens = tuple(filter(None, (line.strip() for line in lines)))
        if not tokens:
            raise TokenError("the token file holds no token")
        if not all(token.isascii() and b" " not in token for token in tokens):
            raise TokenError("the token file must hold one ASCII token without spaces a line")
        return tokens
