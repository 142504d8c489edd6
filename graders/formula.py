"""The language of ``calculate_output``: arithmetic over the rewards of a ``multi`` grader's parts.

Grammar (spec §9.10)::

    formula  = sum
    sum      = product (("+" | "-") product)*
    product  = signed (("*" | "/") signed)*
    signed   = ("+" | "-") signed | power
    power    = atom ["^" signed]
    atom     = number | name | function "(" sum ("," sum)* ")" | "(" sum ")"
    number   = (digits ["." [digits]] | "." digits) [("e" | "E") ["+" | "-"] digits]
    name     = [A-Za-z_][A-Za-z0-9_]*
    function = "abs" | "ceil" | "exp" | "floor" | "log" | "max" | "min" | "sqrt"

So ``^`` binds tighter than a sign on its left and associates to the right: ``-a^2`` is
``-(a^2)``, ``2^3^2`` is ``2^(3^2)``, ``2^-1`` is 0.5. ``min`` and ``max`` take two or more
arguments, the others one; ``log`` is natural. A function's name without a parenthesis is the part
of that name. There are no constants, comparisons, conditions, ``**`` or implied multiplication.

Evaluation uses IEEE doubles, left to right, and never clamps. Every operation must have a finite
real value: division by zero, a logarithm of 0, a root of a negative number or an overflow anywhere
(even one that ``min`` would drop) is a `FormulaEvaluationError`, never a number.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final, Literal, NamedTuple, NoReturn, TypeAlias, assert_never, cast

import msgspec

from graders.errors import FormulaEvaluationError, FormulaSyntaxError

MAX_FORMULA_CHARS: Final = 10_000
MAX_FORMULA_DEPTH: Final = 50  # nested parentheses, calls, signs and exponents together

_MAX_SHOWN_CHARS: Final = 60  # of an expression in a message
_MAX_LISTED_NAMES: Final = 20

FunctionName: TypeAlias = Literal["abs", "ceil", "exp", "floor", "log", "max", "min", "sqrt"]
Expression: TypeAlias = "Number | Variable | Sign | Sum | Product | Power | Call"
Evaluate: TypeAlias = Callable[[Mapping[str, float]], float]


class Number(msgspec.Struct, frozen=True, kw_only=True):
    """A literal; finite and not negative."""

    value: float


class Variable(msgspec.Struct, frozen=True, kw_only=True):
    """The reward of the part called ``name``."""

    name: str


class Sign(msgspec.Struct, frozen=True, kw_only=True):
    """``+operand`` or ``-operand``."""

    operator: Literal["+", "-"]
    operand: Expression


class Sum(msgspec.Struct, frozen=True, kw_only=True):
    """Additions and subtractions of one level, left to right; ``rest`` is not empty.

    One node a level, not one an operator: a long sum is then not a deep tree.
    """

    first: Expression
    rest: tuple[tuple[Literal["+", "-"], Expression], ...]


class Product(msgspec.Struct, frozen=True, kw_only=True):
    """Multiplications and divisions of one level, left to right; ``rest`` is not empty."""

    first: Expression
    rest: tuple[tuple[Literal["*", "/"], Expression], ...]


class Power(msgspec.Struct, frozen=True, kw_only=True):
    """``base ^ exponent``."""

    base: Expression
    exponent: Expression


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """A function applied to one argument, or two and more for ``min`` and ``max``."""

    function: FunctionName
    arguments: tuple[Expression, ...]


class Formula(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """A compiled formula.

    Attributes:
        source: The text it was compiled from.
        expression: What it says.
        variables: Names it uses, sorted.
        evaluate: ``evaluate(values)`` returns the finite result, never -0.0, for finite ``values``
            of at least `variables`; raises `FormulaEvaluationError` when there is none.
    """

    source: str
    expression: Expression
    variables: tuple[str, ...]
    evaluate: Evaluate


def parse(source: str) -> Expression:
    """Return what ``source`` says, whatever names it uses.

    Raises:
        FormulaSyntaxError: It is no formula, or is longer than `MAX_FORMULA_CHARS` or nested deeper
            than `MAX_FORMULA_DEPTH`.
    """
    return _Parser(source).formula()


def compile_formula(source: str, variables: Collection[str]) -> Formula:
    """Return the formula written in ``source`` over parts called ``variables``.

    Raises:
        FormulaSyntaxError: As `parse`, or it uses a name that is not in ``variables``.
    """
    parser = _Parser(source)
    expression = parser.formula()
    for name, span in parser.names.items():
        if name not in variables:
            raise FormulaSyntaxError(_unknown_name(name, variables), source=source, span=span)
    names = tuple(sorted(parser.names))
    return Formula(
        source=source,
        expression=expression,
        variables=names,
        evaluate=_compiled(expression, names),
    )


def to_source(expression: Expression) -> str:
    """Return a formula that parses to ``expression``, with no more parentheses than it needs."""
    return _printed(expression, 0)


_FUNCTIONS: Final[Mapping[str, Callable[..., float]]] = {
    "abs": abs,
    "ceil": lambda value: float(math.ceil(value)),
    "exp": math.exp,
    "floor": lambda value: float(math.floor(value)),
    "log": math.log,
    "max": max,
    "min": min,
    "sqrt": math.sqrt,
}
_VARIADIC: Final = frozenset({"max", "min"})

_TOKEN = re.compile(
    r"(?P<space>[ \t\r\n]+)"
    r"|(?P<number>(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)"
    r"|(?P<name>[A-Za-z_][A-Za-z0-9_]*)"
    r"|(?P<foreign>\*\*|//|[<>=!]=?|[?:%])"
    r"|(?P<symbol>[-+*/^(),])"
    r"|(?P<unknown>.)",
    re.DOTALL,
)
_FOREIGN: Final[Mapping[str, str]] = {
    "**": "'**' is not an operator, a power is a ^ b",
    "//": "'//' is not an operator, whole division is floor(a / b)",
    "%": "'%' is not an operator",
    "?": "a formula has no conditions",
    ":": "a formula has no conditions",
}
_ALLOWED: Final = "allowed are numbers, names of graders, + - * / ^, parentheses and functions"
_OPERAND: Final = "a number, the name of a grader, a function or '('"


class _Token(NamedTuple):
    kind: str  # "number", "name", "symbol" or "end"
    text: str
    span: tuple[int, int]

    @property
    def described(self) -> str:
        return f"before {_shortened(self.text)!r}" if self.text else "at the end"


class _Parser:
    """Recursive descent over the tokens of one source; each method parses the rule it names.

    Attributes:
        names: Span of the first use of every variable.
    """

    def __init__(self, source: str) -> None:
        if len(source) > MAX_FORMULA_CHARS:
            problem = f"a formula has at most {MAX_FORMULA_CHARS} characters, not {len(source)}"
            span = (MAX_FORMULA_CHARS, MAX_FORMULA_CHARS)
            raise FormulaSyntaxError(problem, source=source, span=span)
        self.names: dict[str, tuple[int, int]] = {}
        self._source = source
        self._tokens = _tokens(source)
        self._position = 0
        self._depth = 0

    @property
    def _next(self) -> _Token:
        return self._tokens[self._position]

    def _take(self) -> _Token:
        token = self._next
        self._position += 1
        return token

    def _refuse(self, problem: str, token: _Token) -> NoReturn:
        raise FormulaSyntaxError(problem, source=self._source, span=token.span)

    def formula(self) -> Expression:
        """``sum``, and nothing after it."""
        expression = self._sum()
        if self._next.text == ")":
            self._refuse("this ')' closes nothing", self._next)
        if self._next.kind != "end":
            self._refuse(f"expected an operator {self._next.described}", self._next)
        return expression

    def _sum(self) -> Expression:
        """``product (("+" | "-") product)*``."""
        first = self._product()
        rest = []
        while self._next.text in {"+", "-"}:
            operator = cast("Literal['+', '-']", self._take().text)
            rest.append((operator, self._product()))
        return Sum(first=first, rest=tuple(rest)) if rest else first

    def _product(self) -> Expression:
        """``signed (("*" | "/") signed)*``."""
        first = self._signed()
        rest = []
        while self._next.text in {"*", "/"}:
            operator = cast("Literal['*', '/']", self._take().text)
            rest.append((operator, self._signed()))
        return Product(first=first, rest=tuple(rest)) if rest else first

    def _signed(self) -> Expression:
        """``("+" | "-") signed | power``; every recursion of the grammar comes by here."""
        self._depth += 1
        if self._depth > MAX_FORMULA_DEPTH:
            self._refuse(f"a formula nests at most {MAX_FORMULA_DEPTH} levels deep", self._next)
        if self._next.text in {"+", "-"}:
            operator = cast("Literal['+', '-']", self._take().text)
            expression: Expression = Sign(operator=operator, operand=self._signed())
        else:
            expression = self._power()
        self._depth -= 1
        return expression

    def _power(self) -> Expression:
        """``atom ["^" signed]``."""
        base = self._atom()
        if self._next.text != "^":
            return base
        self._take()
        return Power(base=base, exponent=self._signed())

    def _atom(self) -> Expression:
        """``number | name | function "(" … ")" | "(" sum ")"``."""
        token = self._take()
        if token.kind == "number":
            value = float(token.text)
            if math.isinf(value):
                self._refuse(f"{_shortened(token.text)} is too large for a number", token)
            return Number(value=value)
        if token.kind == "name":
            if self._next.text == "(":
                return self._call(token)
            self.names.setdefault(token.text, token.span)
            return Variable(name=token.text)
        if token.text != "(":
            self._refuse(f"expected {_OPERAND} {token.described}", token)
        expression = self._sum()
        self._close(token, "an operator or ')'")
        return expression

    def _call(self, name: _Token) -> Expression:
        """``"(" sum ("," sum)* ")"`` after the name of a function."""
        if name.text not in _FUNCTIONS:
            known = ", ".join(_FUNCTIONS)
            self._refuse(
                f"{_shortened(name.text)!r} is not a function; functions are {known}", name
            )
        opening = self._take()
        arguments = [self._sum()]
        while self._next.text == ",":
            self._take()
            arguments.append(self._sum())
        self._close(opening, "an operator, ',' or ')'")
        if name.text in _VARIADIC and len(arguments) < 2:  # noqa: PLR2004 - a grammar, not a setting
            self._refuse(f"{name.text} takes two or more arguments, not 1", name)
        if name.text not in _VARIADIC and len(arguments) > 1:
            self._refuse(f"{name.text} takes one argument, not {len(arguments)}", name)
        return Call(function=cast("FunctionName", name.text), arguments=tuple(arguments))

    def _close(self, opening: _Token, expected: str) -> None:
        token = self._take()
        if token.kind == "end":
            self._refuse("this '(' is never closed", opening)
        if token.text != ")":
            self._refuse(f"expected {expected} {token.described}", token)


def _tokens(source: str) -> list[_Token]:
    """Return the tokens of ``source``, ended by one of kind ``end``."""
    tokens = []
    for match in _TOKEN.finditer(source):
        kind, text = match.lastgroup or "", match[0]
        if kind == "foreign":
            problem = _FOREIGN.get(text, "a formula has no comparisons")
            raise FormulaSyntaxError(f"{problem}; {_ALLOWED}", source=source, span=match.span())
        if kind == "unknown":
            problem = f"unexpected character {text!r}"
            raise FormulaSyntaxError(f"{problem}; {_ALLOWED}", source=source, span=match.span())
        if kind != "space":
            tokens.append(_Token(kind, text, match.span()))
    return [*tokens, _Token("end", "", (len(source), len(source)))]


def _unknown_name(name: str, variables: Collection[str]) -> str:
    if name in _FUNCTIONS:
        return f"{name} is a function and needs arguments: {name}(…)"
    usable = sorted(each for each in variables if each.isascii() and each.isidentifier())
    unusable = sorted(set(variables).difference(usable))
    problem = f"no grader is named {_shortened(name)!r}; known names are {_listed(usable)}"
    if unusable:
        problem += f"; a formula cannot name {_listed([repr(each) for each in unusable])}"
    return problem


def _listed(names: list[str]) -> str:
    shown = [_shortened(name) for name in names[:_MAX_LISTED_NAMES]]
    if len(names) > _MAX_LISTED_NAMES:
        shown.append("…")
    return ", ".join(shown) or "none"


def _shortened(text: str) -> str:
    return text if len(text) <= _MAX_SHOWN_CHARS else f"{text[:_MAX_SHOWN_CHARS]}…"


def _printed(expression: Expression, least: int) -> str:
    """Return ``expression``, in parentheses where the grammar wants a rule of level ``least``."""
    match expression:
        case Number():
            return repr(expression.value).removesuffix(".0")
        case Variable():
            return expression.name
        case Call():
            arguments = ", ".join(_printed(argument, 0) for argument in expression.arguments)
            return f"{expression.function}({arguments})"
        case Sum():
            text, level = _printed_chain(expression, 1), 0
        case Product():
            text, level = _printed_chain(expression, 2), 1
        case Sign():
            text, level = f"{expression.operator}{_printed(expression.operand, 2)}", 2
        case Power():
            base, exponent = _printed(expression.base, 4), _printed(expression.exponent, 2)
            text, level = f"{base} ^ {exponent}", 3
        case _:
            assert_never(expression)
    return f"({text})" if level < least else text


def _printed_chain(chain: Sum | Product, least: int) -> str:
    rest = (f" {operator} {_printed(operand, least)}" for operator, operand in chain.rest)
    return "".join((_printed(chain.first, least), *rest))


def _compiled(expression: Expression, names: tuple[str, ...]) -> Evaluate:
    """Return a generated function for ``expression``; it leaves every failure to `_value`."""

    def explain(values: Mapping[str, float]) -> float:
        return _value(expression, values)

    scope: dict[str, Any] = {**_FUNCTIONS, "power": math.pow, "explain": explain}
    # Only numbers and names that parsed reach the code, as repr() of float and str.
    exec(_Emitter(names).function(expression), scope)  # noqa: S102 - see the line above
    return cast("Evaluate", scope["evaluate"])


class _Emitter:
    """Writes one assignment an operation, so that nothing nests, however long a formula is.

    An operation that may turn an infinite operand into a finite value registers that operand:
    ``finite`` then becomes NaN, as does 0.0 times the result.
    """

    def __init__(self, names: tuple[str, ...]) -> None:
        self._locals = {name: f"v{number}" for number, name in enumerate(names)}
        self._lines = [f"{local} = values[{name!r}]" for name, local in self._locals.items()]
        self._lines.append("finite = 0.0")

    def function(self, expression: Expression) -> str:
        """Return the source of ``evaluate(values)``."""
        result = self._emit(expression)
        self._absorb(result)
        # Adding +0.0 makes an integer a float and -0.0 a plain zero.
        self._lines.append(f"if finite == 0.0: return {result} + finite")
        return "\n".join(
            (
                "def evaluate(values):",
                "    try:",
                *(f"        {line}" for line in self._lines),
                "    except (ArithmeticError, ValueError): pass",
                "    return explain(values)",
            )
        )

    def _assign(self, code: str) -> str:
        local = f"t{len(self._lines)}"
        self._lines.append(f"{local} = {code}")
        return local

    def _absorb(self, operand: str) -> str:
        """Register ``operand``, which is returned; a literal is finite anyway."""
        if operand.isidentifier():
            self._lines.append(f"finite += 0.0 * {operand}")
        return operand

    def _emit(self, expression: Expression) -> str:
        """Append what computes ``expression`` and return the local or literal that holds it."""
        match expression:
            case Number():
                return repr(expression.value)
            case Variable():
                return self._locals[expression.name]
            case Sign():
                return self._assign(f"{expression.operator}{self._emit(expression.operand)}")
            case Sum() | Product():
                result = self._emit(expression.first)
                for operator, operand in expression.rest:
                    right = self._emit(operand)
                    result = self._assign(f"{result} {operator} {right}")
                    if operator == "/":
                        self._absorb(right)
                return result
            case Power():
                base = self._absorb(self._emit(expression.base))
                exponent = self._absorb(self._emit(expression.exponent))
                return self._assign(f"power({base}, {exponent})")
            case Call():
                arguments = [self._absorb(self._emit(each)) for each in expression.arguments]
                return self._assign(f"{expression.function}({', '.join(arguments)})")
            case _:
                assert_never(expression)


def _value(expression: Expression, values: Mapping[str, float]) -> float:
    """Return the value of ``expression`` or raise the error that names the operation at fault."""
    match expression:
        case Number():
            return expression.value
        case Variable():
            result = values[expression.name]
        case Sign():
            operand = _value(expression.operand, values)
            result = -operand if expression.operator == "-" else operand
        case Sum() | Product():
            result = _chain_value(expression, values)
        case Power():
            base, exponent = _value(expression.base, values), _value(expression.exponent, values)
            result = _applied(math.pow, (base, exponent), expression)
        case Call():
            arguments = [_value(argument, values) for argument in expression.arguments]
            result = _applied(_FUNCTIONS[expression.function], arguments, expression)
        case _:
            assert_never(expression)
    if not math.isfinite(result):
        raise FormulaEvaluationError(f"calculate_output: {_shown(expression)} is not finite")
    return result


def _chain_value(chain: Sum | Product, values: Mapping[str, float]) -> float:
    result = _value(chain.first, values)
    for operator, operand in chain.rest:
        right = _value(operand, values)
        match operator:
            case "+":
                result += right
            case "-":
                result -= right
            case "*":
                result *= right
            case "/":
                if right == 0.0:
                    problem = f"calculate_output: division by zero, {_shown(operand)} is 0"
                    raise FormulaEvaluationError(problem)
                result /= right
            case _:
                assert_never(operator)
    return result


_UNDEFINED: Final[Mapping[str, str]] = {
    "^": "base and exponent have no real power",
    "log": "its argument is not above 0",
    "sqrt": "its argument is below 0",
}


def _applied(
    function: Callable[..., float], arguments: Collection[float], expression: Power | Call
) -> float:
    try:
        return function(*arguments)
    except OverflowError as error:
        problem = f"calculate_output: {_shown(expression)} is too large"
        raise FormulaEvaluationError(problem) from error
    except ValueError as error:
        reason = _UNDEFINED[expression.function if isinstance(expression, Call) else "^"]
        problem = f"calculate_output: {_shown(expression)} is undefined, {reason}"
        raise FormulaEvaluationError(problem) from error


def _shown(expression: Expression) -> str:
    return repr(_shortened(to_source(expression)))
