"""What holds for every formula (spec §9.10)."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from typing import Literal, assert_never, get_args

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from graders.errors import FormulaEvaluationError, FormulaSyntaxError
from graders.formula import (
    Call,
    Expression,
    FunctionName,
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

pytestmark = pytest.mark.property

NAMES = ("a", "b", "min", "e1", "_x")
FUNCTIONS: tuple[FunctionName, ...] = get_args(FunctionName)

literals = st.floats(min_value=0.0, allow_nan=False, allow_infinity=False).map(abs)
leaves: st.SearchStrategy[Expression] = st.one_of(
    literals.map(lambda value: Number(value=value)),
    st.integers(0, 9).map(lambda value: Number(value=float(value))),
    st.sampled_from(NAMES).map(lambda name: Variable(name=name)),
)


def calls(parts: st.SearchStrategy[Expression]) -> st.SearchStrategy[Expression]:
    def call(function: FunctionName) -> st.SearchStrategy[Call]:
        low, high = (2, 4) if function in {"min", "max"} else (1, 1)
        arguments = st.lists(parts, min_size=low, max_size=high).map(tuple)
        return st.builds(Call, function=st.just(function), arguments=arguments)

    return st.sampled_from(FUNCTIONS).flatmap(call)


def compounds(parts: st.SearchStrategy[Expression]) -> st.SearchStrategy[Expression]:
    def rest(*operators: str) -> st.SearchStrategy[tuple[tuple[str, Expression], ...]]:
        pairs = st.tuples(st.sampled_from(operators), parts)
        return st.lists(pairs, min_size=1, max_size=4).map(tuple)

    return st.one_of(
        st.builds(Sum, first=parts, rest=rest("+", "-")),
        st.builds(Product, first=parts, rest=rest("*", "/")),
        st.builds(Power, base=parts, exponent=parts),
        st.builds(Sign, operator=st.sampled_from(("+", "-")), operand=parts),
        calls(parts),
    )


expressions = st.recursive(leaves, compounds, max_leaves=12)
rewards = st.one_of(
    st.sampled_from((0.0, 0.5, 1.0)),
    st.floats(min_value=-10, max_value=10),
    st.floats(allow_nan=False, allow_infinity=False),
)
values_by_name = st.fixed_dictionaries(dict.fromkeys(NAMES, rewards))

OPERATORS: Mapping[Literal["+", "-", "*", "/"], Callable[[float, float], float]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
}


class UndefinedError(Exception):
    """The oracle finds no finite value."""


def oracle(expression: Expression, values: Mapping[str, float]) -> float:
    """Return the value by walking the tree, checking every step; written apart from the engine."""
    match expression:
        case Number():
            result = expression.value
        case Variable():
            result = values[expression.name]
        case Sign():
            operand = oracle(expression.operand, values)
            result = {"+": operand, "-": -operand}[expression.operator]
        case Sum() | Product():
            result = oracle(expression.first, values)
            for symbol, right in expression.rest:
                result = defined(OPERATORS[symbol], result, oracle(right, values))
        case Power():
            base, exponent = oracle(expression.base, values), oracle(expression.exponent, values)
            result = defined(math.pow, base, exponent)
        case Call():
            functions: dict[str, Callable[..., float]] = {"abs": abs, "min": min, "max": max}
            function = functions.get(expression.function) or getattr(math, expression.function)
            result = defined(function, *(oracle(each, values) for each in expression.arguments))
        case _:
            assert_never(expression)
    return result


def defined(function: Callable[..., float], *operands: float) -> float:
    try:
        result = float(function(*operands))
    except (ArithmeticError, ValueError) as error:
        raise UndefinedError from error
    if not math.isfinite(result):
        raise UndefinedError
    return result


@given(expressions)
def test_printing_and_parsing_give_the_same_expression(expression: Expression) -> None:
    source = to_source(expression)
    assert parse(source) == expression
    assert to_source(parse(source)) == source


@given(expressions, values_by_name)
def test_evaluation_agrees_with_walking_the_tree(
    expression: Expression, values: dict[str, float]
) -> None:
    formula = compile_formula(to_source(expression), NAMES)
    try:
        expected = oracle(expression, values)
    except UndefinedError:
        with pytest.raises(FormulaEvaluationError):
            formula.evaluate(values)
    else:
        result = formula.evaluate(values)
        assert result == expected
        assert math.isfinite(result)


@given(expressions, values_by_name)
def test_only_the_listed_variables_matter(expression: Expression, values: dict[str, float]) -> None:
    formula = compile_formula(to_source(expression), NAMES)
    needed = {name: values[name] for name in formula.variables}
    try:
        expected = formula.evaluate(values)
    except FormulaEvaluationError:
        assume(False)
    else:
        assert formula.evaluate(needed) == expected


@given(
    st.one_of(
        st.text(max_size=60),
        st.text("ab12.eE+-*/^(), \n", max_size=60),
        st.lists(
            st.sampled_from(("a", "min", "max(", "log(", "(", ")", ",", "+", "-", "*", "^", "2")),
            max_size=40,
        ).map(" ".join),
    )
)
def test_any_text_parses_or_is_a_syntax_error_within_the_text(source: str) -> None:
    try:
        expression = parse(source)
    except FormulaSyntaxError as refused:
        start, end = refused.span
    else:
        start = end = 0
        assert parse(to_source(expression)) == expression
    assert 0 <= start <= end <= len(source)
