"""What a judge call knows about the request it serves.

The engine's port carries the question only. Who asks, on whose budget and with which cache rules
travels beside it, in a context variable that the request handler sets and every task started from
the request inherits::

    with judging(JudgeContext(api_key="trainer-1", grader="gene-ranking@1", cache="refresh")):
        grade = await engine.grade(compiled, item, sample, ports)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final, Literal

import msgspec

CacheControl = Literal["read-write", "refresh", "off"]


class JudgeContext(msgspec.Struct, frozen=True, kw_only=True):
    """One request's terms.

    Attributes:
        api_key: Name (not the secret) of the key that pays; empty without keys.
        grader: ``name@version`` that asks; empty for an ad-hoc grader.
        cache: ``read-write``; ``refresh``: ask again and store; ``off``: neither read nor store,
            and share nothing with anybody.
        sample_index: 0, or the number of a deliberately independent draw of the whole request.
        model: Judge model instead of the definition's, for ensembles; None keeps it.
    """

    api_key: str = ""
    grader: str = ""
    cache: CacheControl = "read-write"
    sample_index: int = 0
    model: str | None = None


DEFAULT_CONTEXT: Final = JudgeContext()
_CURRENT: Final[ContextVar[JudgeContext]] = ContextVar("judge_context", default=DEFAULT_CONTEXT)


def current_context() -> JudgeContext:
    """Return the terms of the request that this code runs for."""
    return _CURRENT.get()


@contextmanager
def judging(context: JudgeContext) -> Iterator[JudgeContext]:
    """Make ``context`` the terms of everything awaited or started inside."""
    token = _CURRENT.set(context)
    try:
        yield context
    finally:
        _CURRENT.reset(token)
