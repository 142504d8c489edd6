"""Hides the headers of ``endpoint`` graders wherever a definition is shown (spec §3.7).

The registry keeps definitions as posted: digests and calls need the real values. What leaves the
service, an answer or a log line, goes through here.
"""

from __future__ import annotations

from typing import Any

import msgspec

from graders.sample import JsonValue

MASK = "**********"  # as the hosted service echoes header values


def masked(document: dict[str, Any]) -> dict[str, Any]:
    """Return JSON with the header values of all graders in it hidden; itself without any."""
    shown: dict[str, Any] = _masked(document)
    return shown


def _masked(value: JsonValue) -> JsonValue:
    if isinstance(value, list):
        parts = [_masked(part) for part in value]
        return parts if any(a is not b for a, b in zip(parts, value, strict=True)) else value
    if not isinstance(value, dict):
        return value
    shown = {key: _masked(part) for key, part in value.items()}
    headers = value.get("headers")
    if value.get("type") == "endpoint" and headers:
        shown["headers"] = dict.fromkeys(headers, MASK) if isinstance(headers, dict) else MASK
    return shown if any(shown[key] is not part for key, part in value.items()) else value


def masked_text(document: bytes) -> bytes:
    """Return stored grader JSON with header values hidden; byte for byte the same without any."""
    if b'"headers"' not in document and b"\\u" not in document:
        return document
    decoded = msgspec.json.decode(document)
    shown = masked(decoded)
    return document if shown is decoded else msgspec.json.encode(shown)
