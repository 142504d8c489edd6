"""What the judge adapter has done since start: plain numbers for whoever exports them."""

from __future__ import annotations

from collections import Counter
from typing import Final

import msgspec

from graders.grade import TokenUsage

SECONDS_BUCKETS: Final = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
"""Upper bounds of the latency histogram; one more bucket counts what is slower."""


_MAX_MODELS: Final = 100  # upstreams may answer with any name, and callers may ask for any
OTHER_MODEL: Final = "(other)"
"""What further judge models are counted as."""


class Latency(msgspec.Struct):
    """A histogram of seconds.

    Attributes:
        buckets: Observations at or below each bound of `SECONDS_BUCKETS`, not cumulated; the last
            one counts the rest.
        total_s: Sum of all observations.
        count: Number of observations.
    """

    buckets: list[int] = msgspec.field(default_factory=lambda: [0] * (len(SECONDS_BUCKETS) + 1))
    total_s: float = 0.0
    count: int = 0

    def observe(self, seconds: float) -> None:
        """Add one observation."""
        place = next((i for i, top in enumerate(SECONDS_BUCKETS) if seconds <= top), -1)
        self.buckets[place] += 1
        self.total_s += seconds
        self.count += 1


class JudgeStats(msgspec.Struct):
    """Counters of one adapter.

    Attributes:
        attempts: Upstream requests by ``(route, outcome)``: ``ok`` or the kind of failure.
        retries: Repeated attempts by route.
        latency: Seconds of successful attempts by route.
        waits: Seconds attempts waited for slot, rate limit and circuit before they began, by route.
        tokens: Tokens paid for by ``(model, kind)``; kinds ``prompt``, ``completion``, ``cached``.
            After the first hundred, models are counted as `OTHER_MODEL`.
        nanodollars: Money spent by ``(api_key, grader, model)``, models as above.
        unpriced: Upstream calls that cost nothing because their route has no price, by route.
        cache: Questions by result: ``hit_process``, ``hit_store``, ``miss``, ``refresh``, ``off``,
            ``garbage`` (a stored value nobody can read; also counted as miss), ``stored``.
        flights: Questions that had to be asked, by part played: ``leader``, ``joined`` (same
            process), ``followed`` (another replica), ``alone`` (store away), ``taken_over`` (the
            leader was gone), ``abandoned`` (everybody who waited gave up).
        refused: Questions not asked, by reason: ``budget``, ``overloaded``, ``circuit_open`` …
    """

    attempts: Counter[tuple[str, str]] = msgspec.field(default_factory=Counter)
    retries: Counter[str] = msgspec.field(default_factory=Counter)
    latency: dict[str, Latency] = {}
    waits: dict[str, Latency] = {}
    tokens: Counter[tuple[str, str]] = msgspec.field(default_factory=Counter)
    nanodollars: Counter[tuple[str, str, str]] = msgspec.field(default_factory=Counter)
    unpriced: Counter[str] = msgspec.field(default_factory=Counter)
    cache: Counter[str] = msgspec.field(default_factory=Counter)
    flights: Counter[str] = msgspec.field(default_factory=Counter)
    refused: Counter[str] = msgspec.field(default_factory=Counter)
    models: set[str] = set()

    def paid(self, account: tuple[str, str], model: str, usage: TokenUsage, nano: int) -> None:
        """Count one upstream answer.

        Args:
            account: ``(api_key, grader)`` that pays.
            model: The model that answered.
            usage: Tokens it took.
            nano: Nanodollars it cost.
        """
        if model not in self.models:
            if len(self.models) < _MAX_MODELS:
                self.models.add(model)
            else:
                model = OTHER_MODEL
        self.nanodollars[(*account, model)] += nano
        self.tokens[model, "prompt"] += usage.prompt_tokens
        self.tokens[model, "completion"] += usage.completion_tokens
        self.tokens[model, "cached"] += usage.cached_tokens


class RouteState(msgspec.Struct, frozen=True, kw_only=True):
    """How one route is doing right now.

    Attributes:
        route: Its name.
        in_flight: Calls at the upstream.
        queued: Calls waiting for a slot.
        limit: Calls allowed at once; falls with 429s and recovers.
        circuit: ``closed``, ``open`` or ``half_open``.
    """

    route: str
    in_flight: int
    queued: int
    limit: float
    circuit: str
