"""Spaces the calls of one URL evenly, as its definition's ``rate_limit`` asks."""

from __future__ import annotations

from collections.abc import Callable

_MAX_URLS = 4096


class Pace:
    """Hands out the times at which calls may start."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """Take the time from ``clock``, in seconds."""
        self._clock = clock
        self._next: dict[str, float] = {}

    def wait_s(self, url: str, per_second: float, *, most_s: float) -> float | None:
        """Return the seconds until a call of ``url`` may start, and take that place.

        Args:
            url: Calls of one URL share a pace.
            per_second: Calls a second.
            most_s: Longest wait worth a place; beyond it none is taken.

        Returns:
            The wait; None where it would be longer than ``most_s``.
        """
        now = self._clock()
        start = max(now, self._next.get(url, now))
        if start - now > most_s:
            return None
        if len(self._next) >= _MAX_URLS:
            self._next = {known: at for known, at in self._next.items() if at > now}
        self._next[url] = start + 1 / per_second
        return start - now
