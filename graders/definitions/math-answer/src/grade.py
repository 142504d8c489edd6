"""Whether a mathematical answer equals the reference, however it is written."""

# ruff: noqa: RUF001 - Greek letters

import re
from typing import Any

import sympy

LONGEST = 300  # characters of an answer
DEEPEST = 12  # levels of parentheses, fractions, powers and signs
HIGHEST = 200  # exponent, and argument of a factorial
MOST_BITS = 2_000  # of a number that is raised to a power
TOWER = 2  # powers within exponents
LETTERS = 4  # unknowns written as one run, such as ab; a longer one is a word
DIGITS = 40  # to which values are compared
CLOSE = "1e-30"
POINTS = ("0.7310", "1.9170", "0.4190", "2.3070")  # for unknowns, shifted for each

DEGREES = (sympy.pi / 180, sympy.S.One)  # a degree; and as if its sign were not there
NAMES = {"pi": sympy.pi, "e": sympy.E, "i": sympy.I, "infty": sympy.oo, "oo": sympy.oo}
FUNCTIONS = {
    "sqrt": sympy.sqrt,
    "sin": sympy.sin,
    "cos": sympy.cos,
    "tan": sympy.tan,
    "arcsin": sympy.asin,
    "arccos": sympy.acos,
    "arctan": sympy.atan,
    "ln": sympy.log,
    "log": sympy.log,
    "exp": sympy.exp,
}
LETTERS_BY_NAME = (
    "αalpha βbeta γgamma δdelta εepsilon ζzeta ηeta θtheta κkappa λlambda μmu νnu ξxi ρrho σsigma"
    " τtau φphi χchi ψpsi ωomega ΓGamma ΔDelta ΘTheta ΛLambda ΣSigma ΦPhi ΨPsi ΩOmega"
)
GREEK = {entry[1:]: entry[0] for entry in LETTERS_BY_NAME.split()}
VARIANTS = {"varepsilon": "epsilon", "vartheta": "theta", "varphi": "phi"}
WORDS = {"frac", *NAMES, *FUNCTIONS, *(name for name in GREEK if name not in {"mu", "nu", "xi"})}
OPENING, CLOSING = "([{", ")]}"
TOKEN = re.compile(r"[0-9]+(?:\.[0-9]+)?|\.[0-9]+|\\?[A-Za-z]+|[-+*/^!|(){}\[\],=%°]")
# What a run such as sinx or ab is made of: functions and pi, and then letters.
PIECE = re.compile("|".join([*FUNCTIONS, "pi", "[A-Za-z]"]))
DEGREE_SIGN = re.compile(r"\^\s*(?:\\circ(?![A-Za-z])|\{\s*\\circ\s*\})|\\degree(?![A-Za-z])")
DROPPED = re.compile(r"\\(?:left|right|displaystyle|[,;!: ])|\$|\\[()\[\]]")
RESPELLED = {
    r"\dfrac": r"\frac",
    r"\tfrac": r"\frac",
    r"\cdot": "*",
    r"\times": "*",
    r"\div": "/",
    r"\{": "{",
    r"\}": "}",
    r"\%": "%",
    "**": "^",
    "\u2212": "-",
    "\u00d7": "*",
    "·": "*",
    "÷": "/",
    "π": " pi ",
    "√": " sqrt ",
    "∞": " oo ",
    "²": "^2",
    "³": "^3",
    **{char: f" \\{name} " for name, char in GREEK.items()},
}
PREAMBLE = re.compile(r"\A(?:the )?(?:final )?answer\s*(?:is|:|=)\s*", re.IGNORECASE)


class UnreadableError(ValueError):
    """This is no answer, or too large a one."""


def grade(sample: dict[str, Any], item: dict[str, Any]) -> float:
    """Return 1.0 for an answer that equals the reference, else 0.0."""
    wanted, text = item.get("answer"), sample.get("output_text")
    if {type(text), type(wanted)} != {str}:
        return 0.0
    try:
        return float(any(are_equal(*read(wanted, final(text), degree)) for degree in DEGREES))
    except (UnreadableError, ArithmeticError, ValueError, TypeError, RecursionError):
        return 0.0


def read(wanted: str, answer: str, degree: sympy.Expr) -> tuple[list[sympy.Expr], ...]:
    """Return the values of both, with so many for a degree."""
    return Reader(wanted, degree).values(), Reader(answer, degree).values()


def final(text: str) -> str:
    """Return what is in the last box, else the last line without "Answer:" before it."""
    _, box, rest = text.rpartition(r"\boxed{")
    if not box:
        line = text.strip().rpartition("\n")[2]
        return PREAMBLE.sub("", line.strip(" *`$")).strip(" *`$").removesuffix(".")
    level = 1
    for place, char in enumerate(rest):
        level += {"{": 1, "}": -1}.get(char, 0)
        if not level:
            return rest[:place]
    return ""


def are_equal(ones: list[sympy.Expr], others: list[sympy.Expr]) -> bool:
    """Say whether two lists are equal, value by value."""
    return len(ones) == len(others) and all(map(is_same, ones, others))


def is_same(one: sympy.Expr, other: sympy.Expr) -> bool:
    """Say whether two expressions are equal: as they are, or to 30 digits at every point."""
    if one == other:
        return True
    unknowns = sorted(one.free_symbols | other.free_symbols, key=str)
    for point in POINTS:
        values = {
            unknown: sympy.Rational(point) + sympy.Rational(place, 7)
            for place, unknown in enumerate(unknowns)
        }
        left, right = (each.evalf(DIGITS, subs=values) for each in (one, other))
        if not (left.is_number and right.is_number and left.is_finite and right.is_finite):
            return False
        if abs(left - right) > sympy.Float(CLOSE) * (1 + abs(right)):
            return False
    return True


class Reader:
    r"""Reads an answer by this grammar, and computes nothing that could become large.

    ::

        values  = [name "="] sum | opening [name "="] sum ("," sum)* closing | sum ("," sum)*
        sum     = product (("+" | "-") product)*
        product = signed (("*" | "/" | nothing) signed)*
        signed  = ("+" | "-") signed | power
        factor  = number \frac … | power
        power   = atom ["!"] ["%" | "°"] ["^" exponent]
        atom    = number | name | function argument | \frac part part | (sum) | {sum} | |sum|
        part    = {sum} | digit | name
    """

    def __init__(self, text: str, degree: sympy.Expr) -> None:
        """Take ``text`` apart; raise UnreadableError for what has no place in an answer."""
        if len(text) > LONGEST:
            raise UnreadableError
        text = DEGREE_SIGN.sub("°", DROPPED.sub(" ", text))
        for old, new in RESPELLED.items():
            text = text.replace(old, new)
        found = TOKEN.findall(text)
        if "".join(found) != "".join(text.split()):
            raise UnreadableError
        self.tokens = [piece for token in found for piece in pieces(token)]
        self.place, self.depth, self.tower, self.degree = 0, 0, 0, degree

    def values(self) -> list[sympy.Expr]:
        """Return the values: one, or those of a tuple, with the kind of its parentheses."""
        if self.tokens[1:2] == ["="] and self.tokens[0].isalpha():
            self.place = 2
        tokens = self.tokens[self.place :]
        marks: list[sympy.Expr] = []
        if tokens and tokens[0] in OPENING and tokens[-1] in CLOSING and has_comma_inside(tokens):
            marks = [sympy.Symbol(f"kind {tokens[0]}{tokens[-1]}")]
            self.tokens = tokens[1:-1]
            self.place = 0
        found = [self.sum()]
        while self.take(","):
            found.append(self.sum())
        if self.place != len(self.tokens):
            raise UnreadableError
        if marks == [sympy.Symbol("kind {}")]:  # a set
            found.sort(key=sympy.default_sort_key)
        return marks + found

    def peek(self) -> str:
        """Return the next mark, or nothing at the end."""
        return self.tokens[self.place] if self.place < len(self.tokens) else ""

    def take(self, *wanted: str) -> str:
        """Return the next mark and step over it if it is one of ``wanted``; else nothing."""
        mark = self.peek()
        if mark not in wanted:
            return ""
        self.place += 1
        return mark

    def need(self, wanted: str) -> None:
        """Step over ``wanted``, which must come next."""
        if not self.take(wanted):
            raise UnreadableError

    def sum(self) -> sympy.Expr:
        """Return a sum."""
        self.depth += 1
        if self.depth > DEEPEST:
            raise UnreadableError
        total = self.product()
        while sign := self.take("+", "-"):
            total = total + self.product() if sign == "+" else total - self.product()
        self.depth -= 1
        return total

    def product(self) -> sympy.Expr:
        """Return a product; what stands side by side is multiplied, but for two numbers."""
        total = self.signed()
        while True:
            if self.take("*"):
                total *= self.signed()
            elif self.take("/"):
                total /= self.signed()
            elif self.peek().isalpha() or self.peek() in {"(", "{"}:
                total *= self.power()
            else:
                return total

    def signed(self) -> sympy.Expr:
        """Return a factor with its signs."""
        is_negative = self.is_negative()
        return -self.factor() if is_negative else self.factor()

    def is_negative(self) -> bool:
        """Step over signs, and say whether they make what follows negative."""
        found = False
        while sign := self.take("+", "-"):
            found ^= sign == "-"
        return found

    def factor(self) -> sympy.Expr:
        """Return a power, or a mixed number; a whole one before a fraction of no number is none."""
        is_whole = self.peek().isdigit()
        start = self.place
        whole = self.power()
        if not is_whole or self.place > start + 1 or self.peek() != "frac":
            return whole
        fraction = self.atom()
        if not fraction.is_Rational:
            return whole * self.behind(fraction)
        if not 0 < fraction < 1 or self.peek() in {"^", "!"}:  # nobody can say what is meant
            raise UnreadableError
        return self.marked(whole + fraction)

    def marked(self, value: sympy.Expr) -> sympy.Expr:
        """Return a value with the percent or degree sign behind it."""
        mark = self.take("%", "°")
        return value * {"%": sympy.Rational(1, 100), "°": self.degree}.get(mark, 1)

    def power(self) -> sympy.Expr:
        """Return an atom with what stands behind it."""
        return self.behind(self.atom())

    def behind(self, base: sympy.Expr) -> sympy.Expr:
        """Return ``base`` with what stands behind it; large powers and factorials are refused."""
        if self.take("!"):
            if not base.is_Integer or not 0 <= base <= HIGHEST:
                raise UnreadableError
            base = sympy.factorial(base)
        base = self.marked(base)
        return raised(base, self.exponent()) if self.take("^") else base

    def exponent(self) -> sympy.Expr:
        """Return what stands behind ``^``."""
        self.tower += 1
        if self.tower > TOWER:
            raise UnreadableError
        found = -self.power() if self.is_negative() else self.power()
        self.tower -= 1
        return found

    def atom(self) -> sympy.Expr:
        """Return a number, a name, a function's value or what is in parentheses."""
        mark = self.take(self.peek())
        if mark[:1].isdigit() or mark[:1] == ".":
            return sympy.Rational(mark)
        if mark in {"(", "{", "|"}:
            found = self.sum()
            self.need({"(": ")", "{": "}", "|": "|"}[mark])
            return sympy.Abs(found) if mark == "|" else found
        if mark == "frac":
            return self.part() / self.part()
        if mark in FUNCTIONS:
            return self.value_of(mark)
        if mark in NAMES:
            return NAMES[mark]
        if mark.isalpha():
            return sympy.Symbol(mark)
        raise UnreadableError

    def part(self) -> sympy.Expr:
        r"""Return a part of a fraction: in braces, or one digit or name as in ``\frac12``."""
        mark = self.peek()
        if mark.isdigit():
            self.tokens[self.place : self.place + 1] = list(mark)
        elif mark != "{" and (not mark.isalpha() or mark in {"frac", *FUNCTIONS}):
            raise UnreadableError
        return self.atom()

    def value_of(self, name: str) -> sympy.Expr:
        r"""Return a function's value; ``\sqrt[n]`` is the n-th root."""
        root = sympy.Integer(2)
        if name == "sqrt" and self.take("["):
            root = self.sum()
            self.need("]")
        argument = self.argument(name)
        if name == "sqrt":
            return raised(argument, 1 / root)
        if name == "exp":
            return raised(sympy.E, argument)
        return FUNCTIONS[name](argument)

    def argument(self, name: str) -> sympy.Expr:
        """Return what a function is of; that of ``exp`` is an exponent."""
        self.tower += name == "exp"
        if self.tower > TOWER:
            raise UnreadableError
        found = self.atom() if self.peek() in {"(", "{"} else self.power()
        self.tower -= name == "exp"
        return found


def raised(base: sympy.Expr, exponent: sympy.Expr) -> sympy.Expr:
    """Return a power whose exponent, where it is a number, is moderate."""
    if exponent.is_number and not abs(exponent.evalf()) <= HIGHEST:
        raise UnreadableError
    if base.is_Rational and max(abs(base.p), base.q).bit_length() > MOST_BITS:
        raise UnreadableError
    return base**exponent


def pieces(token: str) -> list[str]:
    r"""Return a token; of a run of letters what it is made of, such as ``sin`` and ``x``."""
    name = token.removeprefix("\\")
    name = VARIANTS.get(name, name)
    if not name.isalpha() or name in WORDS or (name != token and name in GREEK):
        return [name]
    found = PIECE.findall(name)
    is_word = sum(len(piece) == 1 for piece in found) > LETTERS
    if name != token or is_word:  # an unknown command, or a word
        raise UnreadableError
    return found


def has_comma_inside(tokens: list[str]) -> bool:
    """Say whether the first mark's parenthesis ends with the last, and has a comma in it."""
    level, has_comma = 0, False
    for place, mark in enumerate(tokens):
        level += (mark in OPENING) - (mark in CLOSING)
        has_comma |= mark == "," and level == 1
        if not level and place < len(tokens) - 1:
            return False
    return has_comma
