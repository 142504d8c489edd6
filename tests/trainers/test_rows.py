"""Training columns as JSON, and answers back."""

import datetime as dt
import json
import math
import pickle
from collections import UserDict, UserList
from typing import Any

import pytest

from graders import errors
from service.jobs import JobsUnavailableError
from service.publishing import PublishingUnavailableError
from service.trainers.errors import RefusedError, RewardError, UnavailableError, UngradedError
from service.trainers.rows import OUTAGE_CODES, Row, decode_results, encode_row


class Numeric:
    """Stands in for NumPy scalars, arrays and tensors."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def tolist(self) -> Any:
        return self.value


def item_of(value: Any, **options: Any) -> Any:
    row = Row(item={"a": value}, fields={"model_sample": "t"})
    return json.loads(encode_row(row, **options))["item"]


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (math.nan, None),
        (-math.inf, None),
        ([1.5, math.nan], [1.5, None]),
        ({"b": {"c": math.inf}}, {"b": {"c": None}}),
        (Numeric(3), 3),
        (Numeric([1, math.nan]), [1, None]),
        ((1, 2), [1, 2]),
        (UserList([1, 2]), [1, 2]),
        (UserDict({"b": 1}), {"b": 1}),
        (range(3), [0, 1, 2]),
        (dt.date(2026, 11, 20), "2026-11-20"),
        (dt.datetime(2026, 11, 20, 1, 2, tzinfo=dt.UTC), "2026-11-20T01:02:00+00:00"),
        ("é\ud800", "é?"),
        ({1: "b"}, {"1": "b"}),
        (10**30, 10**30),
    ],
)
def test_values_get_their_json_form(value: Any, written: Any) -> None:
    assert item_of(value) == {"a": written}


def circle() -> list[Any]:
    ring: list[Any] = []
    ring.append(ring)
    return ring


def deep() -> list[Any]:
    tower: list[Any] = []
    for _ in range(100_000):
        tower = [tower]
    return tower


@pytest.mark.parametrize("value", [b"image", object(), {(1, 2): 3}, {1, 2}, circle(), deep()])
def test_what_has_no_json_form_is_left_out_unless_it_was_asked_for(value: Any) -> None:
    assert item_of(value) == {}
    with pytest.raises(RefusedError, match="the item field 'a' is no JSON"):
        item_of(value, named=frozenset({"a"}))


def test_a_sample_without_json_form_is_refused() -> None:
    with pytest.raises(RefusedError, match="the sample is no JSON"):
        encode_row(Row(item={}, fields={"sample": {"output_tools": [object()]}}))


def test_outage_codes_are_those_of_the_engine() -> None:
    def codes(kind: type[errors.UpstreamError]) -> set[str]:
        return {kind.code}.union(*(codes(child) for child in kind.__subclasses__()))

    # These answer a whole request; no row has them.
    of_requests = {JobsUnavailableError.code, PublishingUnavailableError.code}
    assert codes(errors.UpstreamError) - of_requests == OUTAGE_CODES


@pytest.mark.parametrize("kind", [RewardError, RefusedError, UnavailableError, UngradedError])
def test_errors_survive_pickling(kind: type[RewardError]) -> None:
    error = pickle.loads(pickle.dumps(kind("it failed", "some_code")))  # noqa: S301 - our own
    assert type(error) is kind
    assert (error.message, error.code, str(error)) == (
        "it failed",
        "some_code",
        "it failed (some_code)",
    )


@pytest.mark.parametrize(
    "result",
    [
        {"ok": True, "reward": True},
        {"ok": True, "reward": "1"},
        {"ok": True, "reward": 10**400},
        {"ok": 1, "reward": 1},
        {"reward": 1},
        {"ok": True, "reward": 1, "sub_rewards": {"a": "b"}},
        {"ok": False, "error": "text"},
        {"ok": False, "error": {"code": "c", "retry_after_s": "soon"}},
        [],
    ],
)
def test_an_answer_with_anything_odd_is_none(result: Any) -> None:
    with pytest.raises(ValueError, match=r"reward|result"):
        decode_results(json.dumps({"results": [result]}).encode(), 1)


def test_odd_sub_rewards_count_as_none_and_extra_fields_do_not_matter() -> None:
    body = json.dumps({"results": [{"ok": True, "reward": 2, "sub_rewards": [], "new": 1}], "x": 1})
    (result,) = decode_results(body.encode(), 1)
    assert (result.reward, result.passed, result.sub_rewards) == (2.0, False, {})
