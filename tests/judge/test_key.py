"""Cache key equal iff call equal."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graders.ports import JudgeCall
from service.judge.chat import chat_body
from service.judge.key import digest
from service.judge.responses import responses_body
from service.judge.routes import Route
from tests.judge.calls import call, schema

TEXT = st.text(st.characters(codec="utf-8"), max_size=12)
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "system", "developer", "assistant"]), "content": TEXT}
    ),
    min_size=1,
    max_size=3,
)
SAMPLING = st.fixed_dictionaries(
    {},
    optional={
        "seed": st.integers(0, 3),
        "temperature": st.sampled_from([0, 0.5, 1]),
        "max_completions_tokens": st.integers(1, 3),
        "reasoning_effort": st.sampled_from(["low", "high"]),
    },
)
CALLS = st.builds(
    JudgeCall,
    model=st.sampled_from(["a", "b"]),
    messages=MESSAGES,
    sampling_params=SAMPLING,
    schema_name=st.sampled_from(["s", "t"]),
    schema=st.sampled_from([schema(), schema({"type": "string"})]),
    sample_index=st.integers(0, 2),
)
ROUTE = Route(name="r", base_url="http://h/v1")


def key(asked: JudgeCall, route: Route = ROUTE, request: int = 0) -> str:
    build = responses_body if route.api == "responses" else chat_body
    return digest(route, build(asked, route, asked.model), (request, asked.sample_index))


def reordered(value: Any) -> Any:
    """Return an equal value whose objects have their keys in reverse."""
    if isinstance(value, dict):
        return {name: reordered(value[name]) for name in reversed(value)}
    return [reordered(item) for item in value] if isinstance(value, list) else value


@pytest.mark.property
@given(CALLS, CALLS)
def test_keys_are_equal_iff_calls_are(one: JudgeCall, other: JudgeCall) -> None:
    assert (key(one) == key(other)) is (one == other)


@pytest.mark.property
@given(CALLS)
def test_equal_calls_have_equal_keys_whatever_the_order(one: JudgeCall) -> None:
    other = msgspec.structs.replace(
        one,
        messages=reordered(one.messages),
        sampling_params=reordered(one.sampling_params),
        schema=reordered(one.schema),
    )
    assert one == other
    assert key(one) == key(other)


@pytest.mark.property
@given(MESSAGES, TEXT)
def test_text_cannot_move_from_one_message_to_the_next(
    messages: list[dict[str, Any]], text: str
) -> None:
    joined = [
        *messages[:-1],
        {"role": messages[-1]["role"], "content": messages[-1]["content"] + text},
    ]
    split = [*messages, {"role": messages[-1]["role"], "content": text}]
    assert key(call(messages=joined)) != key(call(messages=split))


def test_unstated_and_null_parameters_are_the_same_question() -> None:
    assert key(call(sampling_params={"seed": None})) == key(call())
    assert key(call(sampling_params={"temperature": 1.0})) == key(
        call(sampling_params={"temperature": 1})
    )


def test_what_the_upstream_sees_makes_a_difference() -> None:
    routes = [
        ROUTE,
        msgspec.structs.replace(ROUTE, base_url="http://other/v1"),
        msgspec.structs.replace(ROUTE, api="responses"),
        msgspec.structs.replace(ROUTE, structured_output="json_object"),
        msgspec.structs.replace(ROUTE, structured_output="prompt"),
        msgspec.structs.replace(ROUTE, developer_role=False),
    ]
    assert len({key(call(), route) for route in routes}) == len(routes)
    same = [
        msgspec.structs.replace(ROUTE, name="renamed", concurrency=1, timeout_s=1.0, queue=0),
        msgspec.structs.replace(ROUTE, models=("x",), api_key_env="OTHER"),
    ]
    assert {key(call(), route) for route in same} == {key(call())}


def test_draws_never_share() -> None:
    keys = {key(call(sample_index=i), request=j) for i in range(3) for j in range(3)}
    assert len(keys) == 9
