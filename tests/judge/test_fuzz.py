"""Bytes from outside: an answer, or the one error that says it is none. Never anything else."""

from __future__ import annotations

import contextlib
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graders.ports import EmbeddingCall
from service.judge.cache import Cache
from service.judge.chat import EnvelopeError, chat_answer, vectors
from service.judge.outcome import Answer
from service.judge.responses import responses_answer
from service.judge.routes import Route
from service.judge.schema import conforms, only_json, text_conforms
from service.judge.stats import JudgeStats
from service.stores import MemoryStore
from service.stores.redis import _claim
from tests.judge.calls import call, schema

pytestmark = pytest.mark.property
ROUTES = [Route(name="r"), Route(name="r", structured_output="prompt")]
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["choices", "message", "content", "output", "type", "text", "usage", "data"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


def _encodes(value: Any) -> bool:
    try:
        msgspec.json.encode(value)
    except (OverflowError, UnicodeError):
        return False
    return True


BODIES = st.binary(max_size=60) | JSON.filter(_encodes).map(msgspec.json.encode)


@given(BODIES, st.sampled_from(ROUTES))
def test_bodies_of_upstreams(raw: bytes, route: Route) -> None:
    for answer in (chat_answer, responses_answer):
        with contextlib.suppress(EnvelopeError):
            assert isinstance(answer(raw, call(), route, "m"), Answer)
    with contextlib.suppress(EnvelopeError):
        found = vectors(raw, EmbeddingCall(model="m", texts=("a",)), "m")
        assert len(found.vectors) == 1


@given(st.binary(max_size=80))
def test_values_of_stores(raw: bytes) -> None:
    cache = Cache(MemoryStore(), JudgeStats(), ttl_s=1, near_ttl_s=1, near_entries=1, near_bytes=9)
    assert cache.decode("k", raw) is None


@given(st.recursive(st.none() | st.integers() | st.binary(max_size=4), st.lists, max_leaves=6))
def test_answers_of_scripts(answer: object) -> None:
    assert _claim(answer).state in {"found", "granted", "held", "away"}


@given(JSON)
def test_whatever_is_cut_out_of_a_reply_conforms(value: Any) -> None:
    text = f"so: {value!r} {{'a': 1}} " + '{"steps": [], "result": 0.5}'
    found = only_json(text, schema())
    assert found is None or text_conforms(found, schema())
    assert conforms(value, {}) is True
