"""The digest of everything that determines a reply.

Two calls with the same digest may share one reply, on any replica and in any later process; two
calls that differ in anything an upstream could notice never do. `FORMAT` changes with the meaning
of the digest or of the stored value, and then nothing old is found any more.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Final

import msgspec

from service.judge.outcome import JsonObject
from service.judge.routes import Route

FORMAT: Final = 1
_ENCODER: Final = msgspec.json.Encoder(order="deterministic")
_REPLY_DIGITS: Final = 16


def digest(route: Route, body: JsonObject, draw: tuple[int, int]) -> str:
    """Return the hex sha256 of one question.

    Args:
        route: Its address and API count; its limits, price and name do not.
        body: What is sent, model and response schema included; the order of keys does not count.
        draw: ``sample_index`` of the request and of the call: different draws never share.
    """
    return sha256(
        _ENCODER.encode((FORMAT, route.base_url, route.api, route.structured_output, draw, body))
    ).hexdigest()


def digest_of(*said: object) -> str:
    """Return 16 hex digits of the sha256 of what a reply says.

    A signature names the question by its digest, but the same question asked anew may be answered
    differently.
    """
    return sha256(_ENCODER.encode(said)).hexdigest()[:_REPLY_DIGITS]
