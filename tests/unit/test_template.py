"""Templates: what they read, how values render, and what is refused before anything runs."""

from __future__ import annotations

import json
import time
import tracemalloc
from typing import Any

import pytest

from graders.errors import InputTooLongError, InvalidVariableError, TemplateSyntaxError
from graders.sample import Sample
from graders.template import (
    MAX_PATH_STEPS,
    MAX_PLACEHOLDERS,
    MAX_TEMPLATE_CHARS,
    Path,
    RenderStyle,
    Template,
    compile_template,
)

# Large templates take the generic renderer instead of generated code: with this much text behind
# it, a template means the same and takes the other way.
PADDING = "." * 70_000

ITEM: dict[str, Any] = {
    "reference": "Paris",
    "a": {"b": {"c": "deep"}},
    "list": ["zero", {"k": "v"}, ["x", "y"]],
    "with space": "spaced",
    "it's": "quoted",
    "0": "zero as a key",
    "int": 42,
    "float": 1.0,
    "true": True,
    "false": False,
    "null": None,
    "json": '{"symbols": ["AAPL", {"x": 1}]}',
    "json_list": '["first", "second"]',
    "text": "not json",
    "unicode": {"città": "Ærø 🙂"},
    "empty": "",
}


def text_of(template: str, sample: Sample | None = None, style: RenderStyle = "json") -> str:
    """Render ``template`` in both ways, which must agree."""
    sample = sample or Sample("the answer")
    limit = 1_000_000
    generated = compile_template(template, style=style, max_output_chars=limit)
    generic = compile_template(template + PADDING, style=style, max_output_chars=limit)
    text = generated.render(ITEM, sample)
    assert generic.render(ITEM, sample) == text + PADDING
    return text


def problem_of(template: str, sample: Sample | None = None) -> str:
    """Return why ``template`` cannot be rendered; both ways must agree."""
    sample = sample or Sample("the answer")
    generated = compile_template(template, max_output_chars=1_000_000)
    generic = compile_template(template + PADDING, max_output_chars=1_000_000)
    with pytest.raises(InvalidVariableError) as generated_error:
        generated.render(ITEM, sample)
    with pytest.raises(InvalidVariableError) as generic_error:
        generic.render(ITEM, sample)
    assert str(generated_error.value) == str(generic_error.value)
    return str(generated_error.value)


def compiled(template: str, max_output_chars: int = 1_000) -> Template:
    return compile_template(template, max_output_chars=max_output_chars)


@pytest.mark.parametrize(
    ("template", "text"),
    [
        pytest.param("{{item.reference}}", "Paris", id="plain"),
        pytest.param("{{ \t\r\n item.reference \n}}", "Paris", id="space-inside-the-braces"),
        pytest.param("{{item.a.b.c}}", "deep", id="nested"),
        pytest.param("{{item.list[0]}}", "zero", id="index"),
        pytest.param("{{item.list[1].k}}", "v", id="key-after-index"),
        pytest.param("{{item.list[2][1]}}", "y", id="index-after-index"),
        pytest.param("{{item['with space']}}", "spaced", id="single-quotes"),
        pytest.param('{{item["it\'s"]}}', "quoted", id="double-quotes"),
        pytest.param("{{item['a'].b[\"c\"]}}", "deep", id="mixed-steps"),
        pytest.param("{{item.0}}", "zero as a key", id="digits-after-a-dot-are-a-key"),
        pytest.param("{{item.unicode['città']}}", "Ærø 🙂", id="key-outside-ascii"),
        pytest.param("{{item.empty}}", "", id="empty-string"),
        pytest.param("Q: {{item.a.b.c}}?", "Q: deep?", id="text-around"),
        pytest.param(
            "{{item.empty}}{{item.reference}}{{item.reference}}", "ParisParis", id="twice"
        ),
        # Countdown's production config puts the brace of its JSON right behind the placeholder.
        pytest.param('{"out": {{item.reference}}}', '{"out": Paris}', id="brace-behind"),
        pytest.param('{"a": "{{item.reference}}"}', '{"a": "Paris"}', id="inside-json-text"),
        pytest.param("100 % {{item.reference}} %s", "100 % Paris %s", id="percent-signs"),
        pytest.param('\\n\'""" {x} {{item.reference}}', '\\n\'""" {x} Paris', id="code-like-text"),
        pytest.param("}} {{item.reference}} }}", "}} Paris }}", id="closing-braces-alone-are-text"),
        pytest.param("no placeholder { }", "no placeholder { }", id="literal"),
        pytest.param("", "", id="nothing"),
    ],
)
def test_placeholder_is_replaced_by_what_its_path_reads(template: str, text: str) -> None:
    assert text_of(template) == text


@pytest.mark.parametrize(
    ("key", "as_json", "as_python"),
    [
        ("int", "42", "42"),
        ("float", "1.0", "1.0"),
        ("true", "true", "True"),
        ("false", "false", "False"),
        ("null", "null", "None"),
        ("list", '["zero", {"k": "v"}, ["x", "y"]]', "['zero', {'k': 'v'}, ['x', 'y']]"),
        ("unicode", '{"città": "Ærø 🙂"}', "{'città': 'Ærø 🙂'}"),
        ("reference", "Paris", "Paris"),
    ],
)
def test_value_renders_in_the_words_of_its_style(key: str, as_json: str, as_python: str) -> None:
    assert text_of(f"{{{{item.{key}}}}}") == as_json
    assert text_of(f"{{{{item.{key}}}}}", style="python") == as_python


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e16, -0.0, 1e-7, 10**400])
def test_unusual_number_renders_as_json_dumps_writes_it(value: float) -> None:
    assert compiled("{{item.x}}").render({"x": value}, Sample("")) == json.dumps(value)
    assert compiled("{{item.x}}").render({"x": [value]}, Sample("")) == json.dumps([value])


def test_substituted_text_is_not_expanded_again() -> None:
    item = {"a": "{{item.b}}", "b": "secret"}
    assert compiled("{{item.a}} {{sample.output_text}}").render(item, Sample("{{item.b}}")) == (
        "{{item.b}} {{item.b}}"
    )


class TestSample:
    sample = Sample.from_object(
        {
            "output_text": '{"n": [1, "two"]}',
            "output_tools": [
                {"function": {"name": "find", "arguments": '{"symbols": ["AAPL"]}'}},
            ],
        }
    )

    @pytest.mark.parametrize(
        ("path", "text"),
        [
            ("output_text", '{"n": [1, "two"]}'),
            ("output_json", '{"n": [1, "two"]}'),
            ("output_json.n", '[1, "two"]'),
            ("output_json.n[1]", "two"),
            ("output_text.n[1]", "two"),
            ("output_tools[0].function.name", "find"),
            ("output_tools[0].function.arguments.symbols", '["AAPL"]'),
            ("output_tools[0].function.arguments.symbols[0]", "AAPL"),
            ("choices[0].message.role", "assistant"),
            ("['choices'][0].finish_reason", "stop"),
        ],
    )
    def test_namespace_is_read(self, path: str, text: str) -> None:
        separator = "" if path.startswith("[") else "."
        assert text_of(f"{{{{sample{separator}{path}}}}}", self.sample) == text

    def test_bare_text_has_the_live_shape(self) -> None:
        assert text_of("{{sample.choices[0].message.content}}") == "the answer"
        assert text_of("{{sample.output_tools}}") == "[]"
        assert text_of("{{sample.output_reasoning_summary}}") == "null"

    def test_answer_that_is_not_json_has_no_output_json(self) -> None:
        reason = "cannot be found: the answer is not JSON, so there is no sample.output_json"
        assert problem_of("{{sample.output_json}}") == f"sample.output_json {reason}"
        assert problem_of("{{sample.output_json.x}}") == f"sample.output_json.x {reason}"

    def test_null_in_a_sample_object_says_that_the_answer_is_not_json(self) -> None:
        captured = Sample.from_object({"output_text": "hi", "output_json": None})
        assert "is not JSON" in problem_of("{{sample.output_json}}", captured)

    def test_answer_null_is_json_and_renders(self) -> None:
        assert text_of("{{sample.output_json}}", Sample(" null\n")) == "null"

    def test_given_output_json_is_used_whatever_the_text_says(self) -> None:
        given = Sample.from_object({"output_text": "hi", "output_json": {"x": "y"}})
        assert text_of("{{sample.output_json.x}}", given) == "y"

    def test_unused_output_json_is_not_parsed(self) -> None:
        sample = Sample("[" * 10)
        compiled("{{sample.output_text}}").render({}, sample)
        assert sample._namespace is None


class TestJsonInStrings:
    def test_path_continues_into_the_value_a_string_holds(self) -> None:
        assert text_of("{{item.json.symbols}}") == '["AAPL", {"x": 1}]'
        assert text_of("{{item.json.symbols[1].x}}") == "1"
        assert text_of("{{item.json_list[1]}}") == "second"

    def test_index_never_picks_a_character(self) -> None:
        assert "is a string that holds no JSON object or array" in problem_of("{{item.text[0]}}")
        assert "is a string that holds no JSON object or array" in problem_of("{{item.list[0][0]}}")

    def test_string_is_decoded_once_for_all_paths(self) -> None:
        # 2,000 times 1 MB would take a minute.
        item = {"x": json.dumps({f"k{number}": "v" for number in range(80_000)})}
        template = compiled("".join(f"{{{{item.x.k{number}}}}}" for number in range(2_000)), 10_000)
        started = time.perf_counter()
        assert template.render(item, Sample("")) == "v" * 2_000
        assert time.perf_counter() - started < 5


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        ("{{item.r}}", "item.r cannot be found: item is an object without this key"),
        ("{{item[0]}}", "item[0] cannot be found: item is an object without this key"),
        ("{{item.a.x.c}}", "item.a.x.c cannot be found: item.a is an object without this key"),
        ("{{item.list[3]}}", "item.list[3] cannot be found: item.list is an array of length 3"),
        ("{{item.list.k}}", "item.list.k cannot be found: item.list is an array of length 3"),
        ("{{item.int.k}}", "item.int.k cannot be found: item.int is a number"),
        ("{{item.float[0]}}", "item.float[0] cannot be found: item.float is a number"),
        ("{{item.true.k}}", "item.true.k cannot be found: item.true is a boolean"),
        ("{{item.null.k}}", "item.null.k cannot be found: item.null is null"),
        (
            "{{item.json.x}}",
            "item.json.x cannot be found: item.json is an object without this key",
        ),
        (
            "{{item.text.x}}",
            "item.text.x cannot be found: item.text is a string that holds no JSON object or array",
        ),
        (
            "{{sample.output_tools[0].function.name}}",
            (
                "sample.output_tools[0].function.name cannot be found:"
                " sample.output_tools is an array of length 0"
            ),
        ),
        ("{{sample[0]}}", "sample[0] cannot be found: sample is an object without this key"),
        ("{{sample.x}}", "sample.x cannot be found: sample is an object without this key"),
    ],
)
def test_missing_variable_names_its_path_and_where_it_ends(template: str, problem: str) -> None:
    assert problem_of(template) == problem


def test_long_path_is_shortened_in_messages() -> None:
    assert problem_of(f"{{{{item.{'k' * 500}}}}}") == (
        f"item.{'k' * 195}… cannot be found: item is an object without this key"
    )


@pytest.mark.parametrize("style", ["json", "python"])
def test_value_too_deep_to_render_is_an_invalid_variable(style: RenderStyle) -> None:
    value: Any = "x"
    for _ in range(100_000):
        value = [value]
    template = compile_template("{{item.x}}", style=style, max_output_chars=1_000_000)
    with pytest.raises(
        InvalidVariableError, match=r"^item\.x is too deep or too large to be rendered"
    ):
        template.render({"x": value}, Sample(""))
    while isinstance(value, list):  # or the interpreter unwinds it recursively
        value = value.pop()


def test_integer_too_large_to_print_is_an_invalid_variable() -> None:
    with pytest.raises(InvalidVariableError, match="too deep or too large"):
        compiled("{{item.x}}").render({"x": 10**5_000}, Sample(""))


class TestSyntax:
    @pytest.mark.parametrize(
        ("template", "problem", "marked"),
        [
            ("{{item}}", "{{item}} names no field; write {{item.name}}", "item"),
            ("{{ sample }}", "{{sample}} names no field; write {{sample.name}}", "sample"),
            ("{{}}", "an empty placeholder", "{{}}"),
            ("{{ \n }}", "an empty placeholder", "{{ \n }}"),
            ("{{ foo.x }}", "unknown namespace 'foo'", "foo"),
            ("{{items.x}}", "unknown namespace 'items'", "items"),
            ("{{reference}}", "unknown namespace 'reference'", "reference"),
            ("{{$.item.x}}", "a placeholder starts with item or sample", "$.item.x"),
            ("{{{item.x}}}", "a placeholder starts with item or sample", "{item.x"),
            ("{{item.x | upper }}", "a placeholder has no filters", "| upper"),
            ("{{item.x|upper}}", "a placeholder has no filters", "|upper"),
            ("{{item.*}}", "a path has no wildcards", ".*"),
            ("{{item.x[*].y}}", "a path has no wildcards", "[*].y"),
            ("{{item.x[-1]}}", "a negative index is not supported", "[-1]"),
            ("{{item..x}}", "a dot is followed by a key", "..x"),
            ("{{item.}}", "a dot is followed by a key", "."),
            ("{{item.città}}", "a path ends here", "à"),
            ("{{item.x[key]}}", "brackets hold an index such as [0]", "[key]"),
            ("{{item.x[01]}}", "brackets hold an index such as [0]", "[01]"),
            ("{{item.x[1234567890]}}", "brackets hold an index such as [0]", "[1234567890]"),
            ("{{item['x}}']}}", "brackets hold an index such as [0]", "['x"),
            ("{{item.x + 1}}", "a path ends here", "+ 1"),
            ("{{item.x y}}", "a path ends here", "y"),
            ("{{item .x}}", "a path ends here", ".x"),
            ("{{item\u00a0.x}}", "a path ends here", "\u00a0.x"),
            ("{{item.x", "'{{' is never closed by '}}'", "{{"),
            ("{{item.x}", "'{{' is never closed by '}}'", "{{"),
            ("{{item.x}} {{", "'{{' is never closed by '}}'", "{{"),
        ],
    )
    def test_malformed_placeholder_is_named_and_underlined(
        self, template: str, problem: str, marked: str
    ) -> None:
        with pytest.raises(TemplateSyntaxError) as caught:
            compiled(template)
        error = caught.value
        assert error.problem.startswith(problem)
        start, end = error.span
        assert error.source[start:end] == marked

    def test_message_gives_line_and_column_and_underlines_the_place(self) -> None:
        with pytest.raises(TemplateSyntaxError) as caught:
            compiled("first line\n  {{ item.x|e }} rest")
        assert str(caught.value) == (
            "a placeholder has no filters; allowed are {{item.…}} and {{sample.…}} with steps .key,"
            " [0] and ['key'] (line 2, column 12)\n"
            "      {{ item.x|e }} rest\n"
            "               ^^"
        )

    def test_second_placeholder_is_checked_too(self) -> None:
        with pytest.raises(TemplateSyntaxError) as caught:
            compiled("{{item.x}} {{item}}")
        assert caught.value.span == (13, 17)


class TestPaths:
    def test_each_path_is_listed_once_in_order_of_use(self) -> None:
        template = compiled("{{sample.output_text}} {{item.a[0]['k']}} {{ item['a'][0].k }}")
        assert template.paths == (
            Path(namespace="sample", steps=("output_text",)),
            Path(namespace="item", steps=("a", 0, "k")),
        )
        assert template.literal is None
        assert template.source.startswith("{{sample")

    def test_text_alone_is_literal_and_has_no_paths(self) -> None:
        template = compiled("plain")
        assert (template.literal, template.paths) == ("plain", ())

    @pytest.mark.parametrize(
        "spelled", ["item.a-b_c[0].0", "item['with space']", 'item["it\'s"]', "item['']"]
    )
    def test_path_is_spelled_as_a_template_spells_it(self, spelled: str) -> None:
        assert str(compiled(f"{{{{{spelled}}}}}").paths[0]) == spelled


class TestLimits:
    @pytest.mark.parametrize("text", ["{{item.x}}", "{{item.x}}!", "{{item.x}}" * 100])
    def test_text_of_exactly_the_limit_is_returned_and_one_more_is_refused(self, text: str) -> None:
        expected = text.replace("{{item.x}}", "12345")
        assert compiled(text, len(expected)).render({"x": "12345"}, Sample("")) == expected
        with pytest.raises(InputTooLongError) as caught:
            compiled(text, len(expected) - 1).render({"x": "12345"}, Sample(""))
        assert str(caught.value) == (
            f"a rendered text needs at least {len(expected)} characters,"
            f" the limit is {len(expected) - 1}"
        )

    @pytest.mark.parametrize("template", ["too long", "too long {{item.x}}"])
    def test_literal_over_the_limit_is_refused_when_rendered(self, template: str) -> None:
        with pytest.raises(InputTooLongError):
            compiled(template, 5).render({}, Sample(""))

    @pytest.mark.parametrize(
        "template",
        [
            pytest.param("{{item.x}}" * 60, id="one-string-often"),
            pytest.param("{{item.x}}" * MAX_PLACEHOLDERS, id="one-string-very-often"),
            pytest.param(
                "".join(f"{{{{item.deep{'[0]' * depth}}}}}" for depth in range(64)),
                id="containers-that-hold-each-other",
            ),
        ],
    )
    def test_amplification_is_refused_before_memory_is_spent(self, template: str) -> None:
        deep: Any = "y" * 1_000_000
        for _ in range(64):
            deep = [deep]
        item = {"x": "x" * 1_000_000, "deep": deep}
        limited = compiled(template, 2_000_000)
        tracemalloc.start()
        try:
            with pytest.raises(InputTooLongError):
                limited.render(item, Sample(""))
            peak_bytes = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak_bytes < 10_000_000

    def test_template_of_the_largest_size_compiles_in_seconds(self) -> None:
        filler = "." * (MAX_TEMPLATE_CHARS // MAX_PLACEHOLDERS - len("{{item.k1234}}"))
        source = "".join(f"{filler}{{{{item.k{n:04}}}}}" for n in range(MAX_PLACEHOLDERS))
        started = time.perf_counter()
        template = compiled(source, MAX_TEMPLATE_CHARS)
        assert time.perf_counter() - started < 5
        assert len(template.paths) == MAX_PLACEHOLDERS

    def test_longer_template_is_refused(self) -> None:
        with pytest.raises(
            TemplateSyntaxError, match=r"^a template has at most 4000000 characters"
        ):
            compiled("x" * (MAX_TEMPLATE_CHARS + 1))

    def test_more_placeholders_are_refused(self) -> None:
        with pytest.raises(
            TemplateSyntaxError, match=r"^a template has at most 10000 placeholders"
        ):
            compiled("{{item.x}}" * (MAX_PLACEHOLDERS + 1))

    def test_longest_path_compiles_and_a_longer_one_is_refused(self) -> None:
        value: Any = "x"
        for _ in range(MAX_PATH_STEPS - 1):
            value = {"k": value}
        path = "item" + ".k" * MAX_PATH_STEPS
        assert compiled(f"{{{{{path}}}}}").render({"k": value}, Sample("")) == "x"
        with pytest.raises(TemplateSyntaxError, match=r"^a path has at most 64 steps"):
            compiled(f"{{{{{path}.k}}}}")

    @pytest.mark.parametrize(
        "source",
        ["{{" * 500_000, "{{item" + " " * 1_000_000 + "x}}", "{{item['" + "a" * 1_000_000 + "}}"],
        ids=["opening-braces", "spaces", "unclosed-key"],
    )
    def test_malformed_megabyte_is_refused_in_linear_time(self, source: str) -> None:
        started = time.perf_counter()
        with pytest.raises(TemplateSyntaxError):
            compiled(source)
        assert time.perf_counter() - started < 2
