"""Pauses between attempts."""

import pytest

from service.backoff import pause_s, retry_after_s


@pytest.mark.parametrize(
    ("attempt", "bound"), [(0, 0.5), (1, 1.0), (4, 8.0), (9, 10.0), (9999, 10)]
)
def test_pauses_grow_to_their_bound(attempt: int, bound: float) -> None:
    pauses = [pause_s(attempt, first_s=0.5, most_s=10) for _ in range(400)]
    assert min(pauses) >= 0
    assert bound * 0.8 < max(pauses) <= bound


def test_a_pause_is_never_shorter_than_the_server_asks() -> None:
    pauses = [pause_s(0, first_s=0.5, most_s=1, retry_after_s=20) for _ in range(50)]
    assert 20 <= min(pauses) < max(pauses) <= 20.5


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("3", 3),
        ("0.5", 0.5),
        ("-1", 0),
        ("nan", None),
        ("inf", None),
        ("1e400", None),
        ("1e300", 86_400),
        ("Wed, 21 Oct 99999999999999999999 07:28:00 GMT", None),
        ("Wed, 21 Oct 9999 23:59:59 -2359", 86_400),
        ("soon", None),
        ("", None),
        ("Thu, 01 Jan 1970 00:01:40 GMT", 40),
        ("Thu, 01 Jan 1970 00:00:10 GMT", 0),
    ],
)
def test_retry_after_is_read_as_seconds_or_date(header: str | None, seconds: float | None) -> None:
    assert retry_after_s(header, now_s=60) == seconds
