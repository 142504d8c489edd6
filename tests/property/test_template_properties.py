"""What holds for every template and every item (spec §9.5)."""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from graders.errors import InputTooLongError, InvalidVariableError, TemplateSyntaxError
from graders.sample import Sample
from graders.template import Path, compile_template

pytestmark = pytest.mark.property

MANY_CHARS = 1_000_000
# More text than generated code is made for: the same template then takes the generic renderer.
PADDING = "." * 70_000

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
keys = st.one_of(st.sampled_from(("a", "b", "0", "a b", "it's", "")), texts)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    texts,
)
json_values = st.recursive(
    scalars,
    lambda values: st.lists(values, max_size=4) | st.dictionaries(keys, values, max_size=4),
    max_leaves=10,
)
# Text that could be taken for syntax of the template or of the generated code.
tricky_texts = st.one_of(
    texts,
    st.text("{}%s'\"\\ \nitem.a[0]", max_size=20),
    st.sampled_from(("{{item.a}}", "{{item.", "}}", "%s", "%(a)s", "{0}", "\\N{BULLET}", "'''")),
)
# A brace at the end would join the placeholder behind it.
literal_texts = tricky_texts.map(lambda text: text.rstrip("{")).filter(
    lambda text: "{{" not in text
)
paths = st.lists(
    st.one_of(st.sampled_from(("a", "b")), keys, st.integers(0, 3)), min_size=1, max_size=4
).map(tuple)


def spelled(path: tuple[str | int, ...]) -> str:
    """Return a placeholder for ``path``, if one can be written."""
    text = str(Path(namespace="item", steps=path))
    assume(not any(isinstance(step, str) and "'" in step and '"' in step for step in path))
    assume("}}" not in text)
    return f"{{{{{text}}}}}"


def rendered(source: str, item: dict[str, Any]) -> str:
    """Render in both ways, which must agree."""
    sample = Sample("answer")
    small = compile_template(source, max_output_chars=MANY_CHARS).render
    large = compile_template(source + PADDING, max_output_chars=MANY_CHARS).render
    try:
        text = small(item, sample)
    except InvalidVariableError as missing:
        with pytest.raises(InvalidVariableError, match=f"^{re.escape(str(missing))}$"):
            large(item, sample)
        raise
    assert large(item, sample) == text + PADDING
    return text


def lookup(item: Any, path: tuple[str | int, ...]) -> Any:
    """Return the value at ``path``, or raise LookupError; written apart from the engine."""
    value = item
    step: Any
    for step in path:
        if isinstance(value, str):
            try:
                value = msgspec.json.decode(value)
            except msgspec.DecodeError:
                raise LookupError from None
        expected = dict if isinstance(step, str) else list
        if type(value) is not expected:
            raise LookupError
        value = value[step]
    return value


@given(json_values)
def test_any_json_value_renders_as_json_dumps_writes_it(value: Any) -> None:
    expected = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    assert rendered("{{item.a}}", {"a": value}) == expected


@given(json_values)
def test_a_decoded_value_renders_as_json_dumps_writes_it(value: Any) -> None:
    decoded = msgspec.json.decode(json.dumps({"a": [value]}))
    assert rendered("{{item.a}}", decoded) == json.dumps(decoded["a"], ensure_ascii=False)


@given(json_values)
def test_python_style_renders_as_str_writes_it(value: Any) -> None:
    template = compile_template("{{item.a}}", style="python", max_output_chars=MANY_CHARS)
    assert template.render({"a": value}, Sample("")) == str(value)


@given(st.lists(literal_texts, min_size=1, max_size=4), tricky_texts, tricky_texts)
def test_output_is_the_text_with_the_values_and_is_never_expanded_again(
    parts: list[str], a: str, b: str
) -> None:
    source = "{{item.a}}".join(parts)
    assert rendered(source, {"a": a, "b": b}) == a.join(parts)


@given(st.dictionaries(keys, json_values, max_size=4), st.data())
def test_a_path_reads_what_walking_the_item_reads(item: dict[str, Any], data: Any) -> None:
    path: list[Any] = []
    value: Any = item
    # Mostly paths that exist: random ones hardly ever do.
    while (
        isinstance(value, dict | list)
        and value
        and data.draw(st.booleans() if path else st.just(True))
    ):
        options = list(value) if isinstance(value, dict) else list(range(len(value)))
        path.append(data.draw(st.sampled_from(options)))
        value = value[path[-1]]
    path += data.draw(st.just([]) | paths.map(list))
    assume(path)
    source = spelled(tuple(path))
    try:
        expected = lookup(item, tuple(path))
    except LookupError:
        with pytest.raises(InvalidVariableError):
            rendered(source, item)
    else:
        text = expected if isinstance(expected, str) else json.dumps(expected, ensure_ascii=False)
        assert rendered(source, item) == text


@given(paths)
def test_spelling_a_path_and_compiling_it_gives_the_same_path(path: tuple[str | int, ...]) -> None:
    template = compile_template(spelled(path), max_output_chars=MANY_CHARS)
    assert template.paths == (Path(namespace="item", steps=path),)


@given(
    st.one_of(
        st.text(max_size=40),
        st.text("{}item.sample[0]'\"| \n", max_size=60),
        st.lists(
            st.sampled_from(("{{", "}}", "item", "sample", ".a", "[0]", "['a']", " ", "{", "|")),
            max_size=12,
        ).map("".join),
    )
)
def test_any_text_compiles_or_is_a_syntax_error_within_the_text(source: str) -> None:
    try:
        template = compile_template(source, max_output_chars=MANY_CHARS)
    except TemplateSyntaxError as refused:
        start, end = refused.span
        assert source[start:end]
    else:
        assert (template.literal is None) == ("{{" in source)
        if template.literal is not None:
            assert template.render({}, Sample("")) == source


@given(st.lists(texts, max_size=3), texts, st.integers(0, 100))
def test_output_is_within_the_limit_or_refused(parts: list[str], value: str, limit: int) -> None:
    source = "{{item.a}}".join(part.replace("{", "") for part in parts)
    expected = source.replace("{{item.a}}", value)
    template = compile_template(source, max_output_chars=limit)
    if len(expected) <= limit:
        assert template.render({"a": value}, Sample("")) == expected
    else:
        with pytest.raises(InputTooLongError):
            template.render({"a": value}, Sample(""))
