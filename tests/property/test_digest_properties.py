"""The digest is of what a document says, not of how it is written."""

import json
import random
from typing import Any

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from graders.engine import digest_of

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
)
KEYS = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=20,
)
DOCUMENTS = st.dictionaries(KEYS, VALUES, min_size=1, max_size=5)

pytestmark = pytest.mark.property


def shuffled(value: Any, shuffle: random.Random) -> Any:
    if isinstance(value, list):
        return [shuffled(each, shuffle) for each in value]
    if isinstance(value, dict):
        keys = list(value)
        shuffle.shuffle(keys)
        return {key: shuffled(value[key], shuffle) for key in keys}
    return value


def replaced(value: Any, place: random.Random, new: Any) -> Any:
    """Return ``value`` with one value at a random place replaced by ``new``."""
    if isinstance(value, dict) and value:
        key = place.choice(sorted(value))
        return {**value, key: replaced(value[key], place, new)}
    if isinstance(value, list) and value:
        index = place.randrange(len(value))
        return [*value[:index], replaced(value[index], place, new), *value[index + 1 :]]
    return new


def same(one: Any, other: Any) -> bool:
    """Equality of JSON, where 1, 1.0 and true are three values."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


@given(DOCUMENTS, st.randoms(use_true_random=False))
def test_order_of_keys_does_not_matter(document: Any, shuffle: random.Random) -> None:
    assert digest_of(shuffled(document, shuffle)) == digest_of(document)


@given(DOCUMENTS, st.integers(0, 4), st.booleans())
def test_white_space_and_escapes_do_not_matter(document: Any, indent: int, escaped: bool) -> None:
    text = json.dumps(document, indent=indent, ensure_ascii=escaped, separators=(" , ", " : "))
    assert digest_of(msgspec.json.decode(text)) == digest_of(document)


@given(DOCUMENTS, st.randoms(use_true_random=False), VALUES)
def test_every_changed_value_matters(document: Any, place: random.Random, new: Any) -> None:
    changed = replaced(document, place, new)
    assume(not same(changed, document))
    assert digest_of(changed) != digest_of(document)


@given(DOCUMENTS, KEYS, VALUES)
def test_every_added_key_matters(document: dict[str, Any], key: str, value: Any) -> None:
    assume(key not in document)
    assert digest_of({**document, key: value}) != digest_of(document)


@given(st.lists(VALUES, min_size=2, max_size=5))
def test_order_in_an_array_matters(values: list[Any]) -> None:
    assume(not same(values, values[::-1]))
    assert digest_of(values) != digest_of(values[::-1])
