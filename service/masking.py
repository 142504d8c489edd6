"""Hides the headers of ``endpoint`` graders wherever a definition is shown (spec §3.7).

The registry keeps definitions as posted: digests and calls need the real values. What leaves the
service, an answer or a log line, goes through here.
"""

from __future__ import annotations

from typing import Any

import msgspec

MASK = "**********"  # as the hosted service echoes header values


def masked(document: dict[str, Any]) -> dict[str, Any]:
    """Return the grader JSON ``document`` with every header value hidden; itself without any."""
    hidden: dict[str, Any] = {}
    headers = document.get("headers")
    if document.get("type") == "endpoint" and headers:
        hidden["headers"] = dict.fromkeys(headers, MASK) if isinstance(headers, dict) else MASK
    parts = document.get("graders")
    if isinstance(parts, dict):
        shown: Any = {
            key: masked(part) if isinstance(part, dict) else part for key, part in parts.items()
        }
    elif isinstance(parts, list):  # read as a map, but stored as it was posted
        shown = [masked(part) if isinstance(part, dict) else part for part in parts]
    else:
        shown = parts
    if shown != parts:
        hidden["graders"] = shown
    return {**document, **hidden} if hidden else document


def masked_text(document: bytes) -> bytes:
    """Return stored grader JSON with header values hidden; byte for byte the same without any."""
    if b'"headers"' not in document and b"\\u" not in document:
        return document
    decoded = msgspec.json.decode(document)
    shown = masked(decoded)
    return document if shown is decoded else msgspec.json.encode(shown)
