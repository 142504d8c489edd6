"""Where a runner listens, and where the service finds it: a unix socket, or a host and port."""

from __future__ import annotations

from urllib.parse import urlsplit

import msgspec

_UNIX = "unix:"
_MAX_PORT = 65535


class UnixAddress(msgspec.Struct, frozen=True):
    """A unix socket, by absolute path."""

    path: str

    def __str__(self) -> str:
        """Return it as it is written in settings."""
        return f"{_UNIX}{self.path}"


class TcpAddress(msgspec.Struct, frozen=True):
    """A host and a TCP port."""

    host: str
    port: int

    def __str__(self) -> str:
        """Return it as it is written in settings."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


Address = UnixAddress | TcpAddress


def parse_listen(text: str) -> Address:
    """Return where to listen: ``unix:/absolute/path`` or ``host:port`` (``[::1]:8081``).

    Raises:
        ValueError: It is neither; says what was expected.
    """
    if text.startswith(_UNIX):
        return _unix(text)
    host, colon, port = text.rpartition(":")
    if not (colon and host and port.isascii() and port.isdigit() and int(port) <= _MAX_PORT):
        raise ValueError(f"expected unix:/absolute/path or host:port, got {text!r}")
    return TcpAddress(host.removeprefix("[").removesuffix("]"), int(port))


def check_url(url: str) -> UnixAddress | None:
    """Return the unix socket in ``url``; None for ``http://host:port``, which clients read.

    Raises:
        ValueError: It is neither; says what was expected.
    """
    if url.startswith(_UNIX):
        return _unix(url)
    if not _is_plain(url):
        raise ValueError("expected unix:///absolute/path or http://host:port")
    return None


def _is_plain(url: str) -> bool:
    """Return whether ``url`` has a scheme of ours, a host, perhaps a port, and nothing else."""
    try:
        parts = urlsplit(url)
        if parts.port == 0:
            return False
    except ValueError:
        return False
    more = (parts.path.strip("/"), parts.query, parts.fragment, parts.username)
    return parts.scheme in {"http", "https"} and bool(parts.hostname) and not any(more)


def _unix(text: str) -> UnixAddress:
    path = text.removeprefix(_UNIX)
    path = path.removeprefix("//") if path.startswith("///") else path
    if not path.startswith("/") or path.startswith("//"):
        raise ValueError(f"expected unix:/absolute/path, got {text!r}")
    return UnixAddress(path)
