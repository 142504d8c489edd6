"""A circuit breaker: an upstream that keeps failing is left alone, then asked by one call at once.

States: ``closed`` (all calls pass) → after some failures in a row ``open`` (none pass) → after a
pause ``half_open`` (one call passes; its success closes, its failure opens for twice as long).
Only failures of the upstream count: not 429s, not requests it rightly refuses.

Failures in a row need not mean that an upstream is down: calls that hang together time out
together. So the first pause is one to wait out; only a failed probe makes it `Breaker.down`, and
then calls fail at once.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Final, Literal

_PROBE_POLL_S: Final = 0.25
CircuitState = Literal["closed", "open", "half_open"]


class Breaker:
    """One route's breaker.

    Args:
        failures: Failures in a row that open it.
        span_s: Seconds that such a row must last, so that one burst of timeouts is not enough.
        pause_s: First pause, in seconds.
        longest_s: Longest pause, in seconds.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        *,
        failures: int,
        span_s: float,
        pause_s: float,
        longest_s: float,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """Start closed."""
        self._threshold = failures
        self._span_s = span_s
        self._row_began = 0.0
        self._first_s = pause_s
        self._longest_s = longest_s
        self._clock = clock
        self._failures = 0
        self._pause_s = pause_s
        self._open_until: float | None = None
        self._probing = False
        self._down = False

    @property
    def state(self) -> CircuitState:
        """Which calls pass now."""
        if self._open_until is None:
            return "closed"
        return "half_open" if self._clock() >= self._open_until else "open"

    @property
    def down(self) -> bool:
        """True when a probe has failed, too: nobody should wait for this upstream."""
        return self._down

    def wait_s(self) -> float:
        """Return 0.0 when a call may pass, else seconds until it is worth asking again.

        A call that passes a half-open breaker is the probe and must report how it ended.
        """
        if self._open_until is None:
            return 0.0
        left = self._open_until - self._clock()
        if left > 0:
            return left
        if self._probing:
            return min(self._first_s, _PROBE_POLL_S)
        self._probing = True
        return 0.0

    def succeeded(self) -> None:
        """Close: the upstream answers."""
        self._failures = 0
        self._pause_s = self._first_s
        self._open_until = None
        self._probing = False
        self._down = False

    def failed(self) -> None:
        """Count a failure; open after enough of them, or after a failed probe."""
        now = self._clock()
        if not self._failures:
            self._row_began = now
        self._failures += 1
        long_row = self._failures >= self._threshold and now - self._row_began >= self._span_s
        if self._probing:
            self._down = True
            self._pause_s = min(self._longest_s, 2 * self._pause_s)
        if self._probing or (long_row and self._open_until is None):
            self._open_until = now + self._pause_s
        self._probing = False

    def undecided(self) -> None:
        """Take note that a call ended without a verdict on the upstream (cancelled, 429, 4xx)."""
        self._probing = False
