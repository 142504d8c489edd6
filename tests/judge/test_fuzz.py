"""Bytes from outside: an answer, or the one error that says it is none. Never anything else."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graders.ports import EmbeddingCall
from service.judge.cache import Cache
from service.judge.chat import EnvelopeError, chat_answer, vectors
from service.judge.outcome import Answer, Vectors
from service.judge.responses import responses_answer
from service.judge.routes import Price, Route
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
                [
                    *("choices", "message", "content", "output", "type", "text", "usage", "data"),
                    *("prompt_tokens", "completion_tokens", "input_tokens", "output_tokens"),
                    *("total_tokens", "prompt_tokens_details", "cached_tokens", "model"),
                ]
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
TOKENS = st.none() | st.integers()
USAGES = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(("prompt_tokens", "input_tokens", "completion_tokens"), TOKENS),
        **dict.fromkeys(("output_tokens", "total_tokens"), TOKENS),
        "prompt_tokens_details": st.fixed_dictionaries({"cached_tokens": TOKENS}),
        "input_tokens_details": st.fixed_dictionaries({"cached_tokens": TOKENS}),
    },
)
PRICE = Price(input=1_000_000, cached_input=1_000_000, output=1_000_000)


def a_cache() -> Cache:
    return Cache(MemoryStore(), JudgeStats(), ttl_s=1, near_ttl_s=1, near_entries=1, near_bytes=9)


def outcomes(raw: bytes, route: Route) -> Iterator[Answer | Vectors]:
    for answer in (chat_answer, responses_answer):
        with contextlib.suppress(EnvelopeError):
            yield answer(raw, call(), route, "m")
    with contextlib.suppress(EnvelopeError):
        yield vectors(raw, EmbeddingCall(model="m", texts=("a",)), "m")


@given(BODIES, st.sampled_from(ROUTES))
def test_bodies_of_upstreams(raw: bytes, route: Route) -> None:
    for outcome in outcomes(raw, route):
        assert isinstance(outcome, Answer | Vectors)
        assert a_cache().decode("k", a_cache().encode("k", outcome)) == outcome


@given(USAGES, st.text(max_size=5), st.text(max_size=5))
def test_every_usage_can_be_paid_and_stored(usage: Any, model: str, content: str) -> None:
    message = {"content": content, "refusal": content}
    output = [{"type": "message", "content": [{"type": "output_text", "text": content}]}]
    body = {
        "model": model,
        "usage": usage,
        "choices": [{"message": message}],
        "output": output,
        "data": [{"embedding": [0.5]}],
    }
    found = list(outcomes(json.dumps(body).encode(), ROUTES[0]))
    for outcome in found:
        assert a_cache().decode("k", a_cache().encode("k", outcome)) == outcome
        assert 0 <= PRICE.nanodollars(outcome.usage) < 2**63
    assert len(found) == 3


@given(st.binary(max_size=80))
def test_values_of_stores(raw: bytes) -> None:
    assert a_cache().decode("k", raw) is None


@given(st.recursive(st.none() | st.integers() | st.binary(max_size=4), st.lists, max_leaves=6))
def test_answers_of_scripts(answer: object) -> None:
    assert _claim(answer).state in {"found", "granted", "held", "away"}


@given(JSON)
def test_whatever_is_cut_out_of_a_reply_conforms(value: Any) -> None:
    text = f"so: {value!r} {{'a': 1}} " + '{"steps": [], "result": 0.5}'
    found = only_json(text, schema())
    assert found is None or text_conforms(found, schema())
    assert conforms(value, {}) is True
