"""On what terms one request asks judges: whose budget, which cache rules, which draw.

Callers set them by headers, so that they work on every route and with the official client's
``extra_headers``.
"""

from __future__ import annotations

import re
from typing import Any, get_args

from litestar.exceptions import ClientException

from service.judge.context import CacheControl, JudgeContext
from service.wire import CACHE_HEADER, SAMPLE_INDEX_HEADER

_CACHE_CONTROLS: tuple[str, ...] = get_args(CacheControl)
_INDEX = re.compile(r"[0-9]{1,6}\Z")


def terms(request: Any, grader: str) -> JudgeContext:  # noqa: ANN401 - any of the request classes
    """Return the terms of ``request`` for ``grader`` (``name@version``; empty for an ad-hoc one).

    Raises:
        ClientException: A header holds something else than it may.
    """
    headers = request.headers
    cache = headers.get(CACHE_HEADER, "read-write")
    if cache not in _CACHE_CONTROLS:
        raise ClientException(f"{CACHE_HEADER}: expected one of {', '.join(_CACHE_CONTROLS)}")
    index = headers.get(SAMPLE_INDEX_HEADER, "0")
    if not _INDEX.match(index):
        raise ClientException(f"{SAMPLE_INDEX_HEADER}: expected an integer from 0 to 999999")
    key = request.scope.get("api_key")
    return JudgeContext(
        api_key=key.name if key else "",
        grader=grader,
        cache=cache,
        sample_index=int(index),
    )
