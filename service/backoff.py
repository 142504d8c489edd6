"""How long to wait before asking again: exponential with jitter, and what ``Retry-After`` says.

Standard library only: `service.trainers` runs inside other people's training processes.
"""

from __future__ import annotations

import math
import random
from email.utils import parsedate_to_datetime

# Seeded from the operating system on every draw, so that forked workers do not wait in step.
_RANDOM = random.SystemRandom()
_MAX_DOUBLINGS = 30
_LONGEST_RETRY_AFTER_S = 86_400.0  # nobody plans further, and it has to fit a header again


def pause_s(
    attempt: int, *, first_s: float, most_s: float, retry_after_s: float | None = None
) -> float:
    """Return the seconds to wait after failed attempt number ``attempt``.

    Args:
        attempt: 0 for the first attempt.
        first_s: Upper bound of the first pause; each further bound is twice the one before.
        most_s: Largest bound.
        retry_after_s: What the server asked for; the pause is never shorter.

    Returns:
        A pause drawn evenly below the bound, so that callers that failed together come back apart;
        on top of ``retry_after_s`` where the server named one.
    """
    bound = min(most_s, first_s * 2.0 ** min(attempt, _MAX_DOUBLINGS))
    if retry_after_s is None:
        return _RANDOM.uniform(0, bound)
    return retry_after_s + _RANDOM.uniform(0, first_s)


def retry_after_s(header: str | None, *, now_s: float) -> float | None:
    """Return the seconds that a ``Retry-After`` header asks to wait; None without a usable one.

    Never more than a day.

    Args:
        header: Seconds, or an HTTP date (RFC 9110, section 10.2.3).
        now_s: Seconds since the epoch, against which a date is read.
    """
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(header).timestamp() - now_s
        except (ValueError, OverflowError):
            return None
    return min(max(0.0, seconds), _LONGEST_RETRY_AFTER_S) if math.isfinite(seconds) else None
