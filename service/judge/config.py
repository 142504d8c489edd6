"""What the judge adapter is told at start."""

from __future__ import annotations

from typing import Literal

import msgspec

from service.judge.budget import BudgetConfig
from service.judge.lane import RetryPolicy

JudgeMode = Literal["live", "record", "replay"]


class JudgeConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Behaviour that all routes have in common.

    Attributes:
        mode: ``live``; ``record``: live, and every answer goes to the recording; ``replay``:
            answers from the cache or the recording only, nothing goes upstream.
        recording: Path of the recording; needed by ``record``.
        deadline_s: Seconds the calls of one grade, which start together, may take altogether,
            queue and retries included.
        cache_ttl_s: Seconds an answer is kept in the store.
        near_ttl_s: Seconds an answer is kept in this process.
        near_entries: Most answers kept in this process.
        near_bytes: Most bytes of them.
        lease_s: Seconds after which a silent leader counts as dead; at least 0.3.
        share: Number of processes among which each route's concurrency and minute limits are
            divided.
        retry: Retries and circuit breakers.
        budget: Dollars a day.
    """

    mode: JudgeMode = "live"
    recording: str | None = None
    deadline_s: float = 120.0
    cache_ttl_s: float = 30 * 86_400.0
    near_ttl_s: float = 300.0
    near_entries: int = 20_000
    near_bytes: int = 64 * 1024 * 1024
    lease_s: float = 3.0
    share: int = 1
    retry: RetryPolicy = RetryPolicy()
    budget: BudgetConfig = BudgetConfig()
