"""Formulas: what parses, what it means, and how failures are told."""

from __future__ import annotations

import math
import time

import pytest

from graders.errors import FormulaEvaluationError, FormulaSyntaxError
from graders.formula import (
    MAX_FORMULA_CHARS,
    MAX_FORMULA_DEPTH,
    Call,
    Number,
    Power,
    Product,
    Sign,
    Sum,
    Variable,
    compile_formula,
    parse,
    to_source,
)

A, B, C = Variable(name="a"), Variable(name="b"), Variable(name="c")
TWO = Number(value=2.0)


def value_of(source: str, **values: float) -> float:
    return compile_formula(source, values).evaluate(values)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("a + b - c", Sum(first=A, rest=(("+", B), ("-", C)))),
        ("a * b / c", Product(first=A, rest=(("*", B), ("/", C)))),
        ("a + b * c", Sum(first=A, rest=(("+", Product(first=B, rest=(("*", C),))),))),
        ("(a + b) * c", Product(first=Sum(first=A, rest=(("+", B),)), rest=(("*", C),))),
        ("-a^2", Sign(operator="-", operand=Power(base=A, exponent=TWO))),
        ("(-a)^2", Power(base=Sign(operator="-", operand=A), exponent=TWO)),
        ("a^b^c", Power(base=A, exponent=Power(base=B, exponent=C))),
        ("2^-a^b", Power(base=TWO, exponent=Sign(operator="-", operand=Power(base=A, exponent=B)))),
        (
            "a*-+b",
            Product(
                first=A,
                rest=(("*", Sign(operator="-", operand=Sign(operator="+", operand=B))),),
            ),
        ),
        ("min(a, b, 2)", Call(function="min", arguments=(A, B, TWO))),
        ("log ( a )", Call(function="log", arguments=(A,))),
        ("((a))", A),
        ("min", Variable(name="min")),
        (" \t\r\na\n", A),
    ],
)
def test_source_parses_by_the_grammar(source: str, expected: object) -> None:
    assert parse(source) == expected


@pytest.mark.parametrize(
    ("literal", "value"),
    [
        ("0", 0.0),
        ("12", 12.0),
        ("0.85", 0.85),
        (".5", 0.5),
        ("5.", 5.0),
        ("1e-9", 1e-9),
        ("1E+9", 1e9),
        ("2.5e3", 2500.0),
        (".5e1", 5.0),
        ("5.e1", 50.0),
        ("1e-999", 0.0),  # too small is zero, as in every IEEE reader; too large is refused
    ],
)
def test_number_is_read_in_every_decimal_spelling(literal: str, value: float) -> None:
    assert parse(literal) == Number(value=value)


@pytest.mark.parametrize(
    ("source", "printed"),
    [
        ("(a)+((b*c))", "a + b * c"),
        ("(a+b)+c", "(a + b) + c"),  # its own level in the tree
        ("a-(b-c)", "a - (b - c)"),
        ("a/(b/c)", "a / (b / c)"),
        ("(a*b)^(c+2)", "(a * b) ^ (c + 2)"),
        ("(a^b)^c", "(a ^ b) ^ c"),
        ("a^(b^c)", "a ^ b ^ c"),
        ("-(a^2)", "-a ^ 2"),
        ("(-a)^-2", "(-a) ^ -2"),
        ("-(a+b)", "-(a + b)"),
        ("- -a", "--a"),
        ("max((a+b),1e-9)", "max(a + b, 1e-09)"),
        ("2.0 + .5 + 1e16", "2 + 0.5 + 1e+16"),
    ],
)
def test_printing_uses_no_more_parentheses_than_needed(source: str, printed: str) -> None:
    assert to_source(parse(source)) == printed
    assert parse(printed) == parse(source)


@pytest.mark.parametrize(
    ("source", "values", "expected"),
    [
        ("0.85 * a + 0.15 * b", {"a": 1.0, "b": 0.0}, 0.85),
        (
            "2 * precision * recall / max(precision + recall, 1e-9)",
            {"precision": 0.5, "recall": 0.25},
            1 / 3,
        ),
        ("2 * p * r / max(p + r, 1e-9)", {"p": 0.0, "r": 0.0}, 0.0),
        ("2 ^ 3 ^ a", {"a": 2.0}, 512.0),
        ("-a ^ 2", {"a": 3.0}, -9.0),
        ("2 ^ -1", {}, 0.5),
        ("(-8) ^ 3", {}, -512.0),
        ("0 ^ 0", {}, 1.0),
        ("a - b - c", {"a": 1.0, "b": 2.0, "c": 3.0}, -4.0),
        ("a / b / c", {"a": 12.0, "b": 2.0, "c": 3.0}, 2.0),
        ("+a", {"a": 0.25}, 0.25),
        ("min(a, b, 0.2)", {"a": 0.3, "b": 0.7}, 0.2),
        ("max(a, b)", {"a": 0.3, "b": 0.7}, 0.7),
        ("abs(a - b)", {"a": 0.25, "b": 1.0}, 0.75),
        ("floor(a * 10) / 10", {"a": 0.57}, 0.5),
        ("floor(-a)", {"a": 0.5}, -1.0),
        ("ceil(a)", {"a": 0.1}, 1.0),
        ("exp(a)", {"a": 0.0}, 1.0),
        ("sqrt(a)", {"a": 0.25}, 0.5),
        ("log(exp(a))", {"a": 2.0}, 2.0),
        ("a * 100", {"a": 1.0}, 100.0),  # never clamped
        ("min + max(min, 1)", {"min": 3.0}, 6.0),
        ("class + None", {"class": 1.0, "None": 2.0}, 3.0),  # Python's words are names like others
        ("v0 + t3 + finite + values", {"v0": 1.0, "t3": 2.0, "finite": 3.0, "values": 4.0}, 10.0),
    ],
)
def test_formula_evaluates_to(source: str, values: dict[str, float], expected: float) -> None:
    result = value_of(source, **values)
    assert result == pytest.approx(expected, abs=1e-15)
    assert type(result) is float


def test_integers_give_a_float() -> None:
    assert type(value_of("a", a=1)) is float
    assert type(value_of("floor(a) * 2", a=True)) is float


def test_zero_is_never_negative() -> None:
    assert math.copysign(1.0, value_of("-a", a=0.0)) == 1.0


def test_variables_are_the_names_used_sorted_once_each() -> None:
    formula = compile_formula("b + a * b + max(a, 1)", {"a", "b", "unused"})
    assert formula.variables == ("a", "b")
    assert formula.source == "b + a * b + max(a, 1)"
    assert formula.expression == parse(formula.source)


def test_values_may_hold_more_than_the_formula_uses() -> None:
    assert compile_formula("a", ["a", "b"]).evaluate({"a": 0.5, "b": math.nan}) == 0.5


def test_missing_value_is_the_callers_mistake() -> None:
    with pytest.raises(KeyError):
        compile_formula("a", ["a"]).evaluate({})


@pytest.mark.parametrize(
    ("source", "values", "problem"),
    [
        ("a / b", {"a": 1.0, "b": 0.0}, "division by zero, 'b' is 0"),
        ("a / b", {"a": 0.0, "b": -0.0}, "division by zero, 'b' is 0"),
        ("1 / (a - a)", {"a": 1.0}, "division by zero, 'a - a' is 0"),
        ("2 - 1 * a / 0", {"a": 1.0}, "division by zero, '0' is 0"),
        ("1 + log(a)", {"a": 0.0}, "'log(a)' is undefined, its argument is not above 0"),
        ("log(a)", {"a": -1.0}, "'log(a)' is undefined, its argument is not above 0"),
        ("sqrt(a - 1)", {"a": 0.0}, "'sqrt(a - 1)' is undefined, its argument is below 0"),
        (
            "(-a) ^ 0.5",
            {"a": 1.0},
            "'(-a) ^ 0.5' is undefined, base and exponent have no real power",
        ),
        ("a ^ -1", {"a": 0.0}, "'a ^ -1' is undefined, base and exponent have no real power"),
        ("exp(a)", {"a": 1000.0}, "'exp(a)' is too large"),
        ("10 ^ a", {"a": 1000.0}, "'10 ^ a' is too large"),
        ("a * a", {"a": 1e200}, "'a * a' is not finite"),
        ("a + a", {"a": 1e308}, "'a + a' is not finite"),
        ("-a - a", {"a": 1e308}, "'-a - a' is not finite"),
        ("a / 1e-300", {"a": 1e300}, "'a / 1e-300' is not finite"),
        # An overflow must not vanish in what comes after it.
        ("min(1, a * a)", {"a": 1e200}, "'a * a' is not finite"),
        ("1 / (a * a)", {"a": 1e200}, "'a * a' is not finite"),
        ("exp(-(a * a))", {"a": 1e200}, "'a * a' is not finite"),
        ("(a * a) ^ 0", {"a": 1e200}, "'a * a' is not finite"),
        ("2 ^ -(a * a)", {"a": 1e200}, "'a * a' is not finite"),
        ("floor(a * a)", {"a": 1e200}, "'a * a' is not finite"),
        ("a", {"a": math.nan}, "'a' is not finite"),
        ("-a", {"a": math.inf}, "'a' is not finite"),
        ("max(a, 1)", {"a": math.nan}, "'a' is not finite"),
    ],
)
def test_undefined_or_infinite_operation_is_named(
    source: str, values: dict[str, float], problem: str
) -> None:
    with pytest.raises(FormulaEvaluationError) as caught:
        value_of(source, **values)
    assert str(caught.value) == f"calculate_output: {problem}"


def test_long_operation_is_shortened_in_messages() -> None:
    with pytest.raises(FormulaEvaluationError) as caught:
        value_of("1 / (" + " + ".join(["a"] * 100) + ")", a=0.0)
    assert str(caught.value) == (f"calculate_output: division by zero, '{'a + ' * 15}…' is 0")


@pytest.mark.parametrize(
    ("source", "problem", "span"),
    [
        ("", "expected a number, the name of a grader, a function or '(' at the end", (0, 0)),
        ("a +", "expected a number, the name of a grader, a function or '(' at the end", (3, 3)),
        ("* a", "expected a number, the name of a grader, a function or '(' before '*'", (0, 1)),
        ("abs()", "expected a number, the name of a grader, a function or '(' before ')'", (4, 5)),
        ("a ^", "expected a number, the name of a grader, a function or '(' at the end", (3, 3)),
        ("a b", "expected an operator before 'b'", (2, 3)),
        ("2a", "expected an operator before 'a'", (1, 2)),
        ("a if b", "expected an operator before 'if'", (2, 4)),
        ("1.2.3", "expected an operator before '.3'", (3, 5)),
        ("2(a)", "expected an operator before '('", (1, 2)),
        ("a, b", "expected an operator before ','", (1, 2)),
        ("(a, b)", "expected an operator or ')' before ','", (2, 3)),
        ("min(a b)", "expected an operator, ',' or ')' before 'b'", (6, 7)),
        ("(a", "this '(' is never closed", (0, 1)),
        ("max(a, (b)", "this '(' is never closed", (3, 4)),
        ("a + b)", "this ')' closes nothing", (5, 6)),
        ("foo(a)", "'foo' is not a function; functions are abs, ceil, exp, floor, log,", (0, 3)),
        ("a(b)", "'a' is not a function; functions are abs, ceil,", (0, 1)),
        ("1 + min(a)", "min takes two or more arguments, not 1", (4, 7)),
        ("sqrt(a, b)", "sqrt takes one argument, not 2", (0, 4)),
        ("a * 1e999", "1e999 is too large for a number", (4, 9)),
        ("a ** b", "'**' is not an operator, a power is a ^ b", (2, 4)),
        ("a // b", "'//' is not an operator, whole division is floor(a / b)", (2, 4)),
        ("a % b", "'%' is not an operator", (2, 3)),
        ("a >= b", "a formula has no comparisons", (2, 4)),
        ("a == b", "a formula has no comparisons", (2, 4)),
        ("a ? b : c", "a formula has no conditions", (2, 3)),
        ("a $ b", "unexpected character '$'; allowed are numbers,", (2, 3)),
        ("a × b", "unexpected character '×'; allowed are numbers,", (2, 3)),
        (".", "unexpected character '.'; allowed are numbers,", (0, 1)),
    ],
)
def test_syntax_error_says_what_was_expected_and_where(
    source: str, problem: str, span: tuple[int, int]
) -> None:
    with pytest.raises(FormulaSyntaxError) as caught:
        parse(source)
    assert caught.value.problem.startswith(problem)
    assert caught.value.span == span


def test_trailing_operator_underlines_its_position() -> None:
    with pytest.raises(FormulaSyntaxError) as caught:
        parse("0.5 * a +")
    assert str(caught.value).splitlines()[1:] == ["    0.5 * a +", "             ^"]


@pytest.mark.parametrize(
    ("source", "variables", "problem", "span"),
    [
        ("a + c", ["b", "a"], "no grader is named 'c'; known names are a, b", (4, 5)),
        ("c + c", ["a"], "no grader is named 'c'; known names are a", (0, 1)),
        ("pi", [], "no grader is named 'pi'; known names are none", (0, 2)),
        ("A", ["a"], "no grader is named 'A'; known names are a", (0, 1)),
        (
            "similarity-score",
            ["similarity-score", "exact"],
            (
                "no grader is named 'similarity'; known names are exact;"
                " a formula cannot name 'similarity-score'"
            ),
            (0, 10),
        ),
        (
            "x",
            ["å"],
            "no grader is named 'x'; known names are none; a formula cannot name 'å'",
            (0, 1),
        ),
        ("1 + min", ["a"], "min is a function and needs arguments: min(…)", (4, 7)),
        (
            "x",
            [f"n{number:02}" for number in range(30)],
            "no grader is named 'x'; known names are "
            + ", ".join(f"n{number:02}" for number in range(20))
            + ", …",
            (0, 1),
        ),
    ],
)
def test_unknown_name_lists_the_names_that_exist(
    source: str, variables: list[str], problem: str, span: tuple[int, int]
) -> None:
    with pytest.raises(FormulaSyntaxError) as caught:
        compile_formula(source, variables)
    assert caught.value.problem == problem
    assert caught.value.span == span


class TestLimits:
    def test_longest_formula_compiles_and_evaluates(self) -> None:
        source = "a" + "+a" * (MAX_FORMULA_CHARS // 2 - 1)
        started = time.perf_counter()
        assert value_of(source, a=1.0) == MAX_FORMULA_CHARS / 2
        assert time.perf_counter() - started < 5
        assert parse(to_source(parse(source))) == parse(source) if len(source) < 3_000 else True

    def test_longer_formula_is_refused(self) -> None:
        with pytest.raises(FormulaSyntaxError, match=r"^a formula has at most 10000 characters"):
            parse("1" * (MAX_FORMULA_CHARS + 1))

    @pytest.mark.parametrize(
        ("opening", "closing"),
        [("(", ")"), ("-", ""), ("1^", ""), ("abs(", ")"), ("min(0, ", ")"), ("exp(0*(", "))")],
    )
    def test_deepest_formula_works_and_a_deeper_one_is_refused(
        self, opening: str, closing: str
    ) -> None:
        levels = (MAX_FORMULA_DEPTH - 1) // (2 if opening == "exp(0*(" else 1)
        source = opening * levels + "a" + closing * levels
        formula = compile_formula(source, ["a"])
        assert parse(to_source(formula.expression)) == formula.expression
        assert math.isfinite(formula.evaluate({"a": 0.5}))
        with pytest.raises(FormulaSyntaxError, match=r"^a formula nests at most 50 levels deep"):
            parse(opening * (MAX_FORMULA_CHARS // len(opening)))
