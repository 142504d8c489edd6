"""What callers that can set nothing but a URL say in it: a key, and query parameters in the path.

::

    /v1/k/{key}/graders/…            a key that may only score
    /v1/with/{parameters}/graders/…  a query string as one path segment, for clients that append
                                     their own path to a base URL
    /v1/graders/…?key={key}          the same key in the query

Both prefixes may stand together. The application behind never sees the key.
"""

from __future__ import annotations

from urllib.parse import unquote, unquote_to_bytes

import msgspec

_ROOT = b"/v1"
_KEY = b"/v1/k/"
_WITH = b"/v1/with/"
_IN_QUERY = b"key="


class Unpacked(msgspec.Struct, frozen=True, kw_only=True):
    """A URL without what was packed into it.

    Attributes:
        raw_path: As the router should see it, percent-encoded.
        query: The query string without a key, the path's parameters in front.
        key: The key, if there was one.
    """

    raw_path: bytes
    query: bytes
    key: bytes | None

    @property
    def path(self) -> str:
        """The path, decoded."""
        return unquote(self.raw_path.decode("ascii", "replace"))


def is_packed(path: str, query: bytes) -> bool:
    """Return whether `unpack` has anything to do; cheap, for every request."""
    return path.startswith(("/v1/k/", "/v1/with/")) or _IN_QUERY in query


def unpack(raw_path: bytes, query: bytes) -> Unpacked:
    """Return the URL without keys and parameters in its path, and without a key in its query.

    Of several keys the last counts; parameters stay in their order.
    """
    key: bytes | None = None
    parameters: list[bytes] = []
    while True:
        if raw_path.startswith(_KEY):
            segment, slash, rest = raw_path[len(_KEY) :].partition(b"/")
            key = unquote_to_bytes(segment)
        elif raw_path.startswith(_WITH):
            segment, slash, rest = raw_path[len(_WITH) :].partition(b"/")
            parameters += segment.split(b"&")
        else:
            break
        raw_path = _ROOT + slash + rest
    parameters += query.split(b"&")
    kept: list[bytes] = []
    for parameter in parameters:
        if parameter.startswith(_IN_QUERY):
            key = unquote_to_bytes(parameter[len(_IN_QUERY) :].replace(b"+", b" "))
        elif parameter:
            kept.append(parameter)
    return Unpacked(raw_path=raw_path, query=b"&".join(kept), key=key)
