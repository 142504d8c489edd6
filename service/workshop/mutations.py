"""Small faults in a definition, one at a time: what good examples must notice.

Formulas (operators, numbers, functions, names), operations, metrics, ranges, labels, and in Python
sources comparisons, arithmetic, logic and constants. Prompts are left alone: a recorded verdict
cannot notice them. Numbers below a millionth are guards against division by zero and left alone.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import Any, TypeGuard

import msgspec

from graders.sample import JsonValue

_TINY = 1e-6
_TOKEN = re.compile(
    r"(?P<number>(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?)"
    r"|(?P<name>[A-Za-z_][A-Za-z0-9_]*)|(?P<operator>[-+*/^])"
)
_OPERATORS = {"+": "-", "-": "+", "*": "/", "/": "*", "^": "*"}
_FUNCTIONS = {"min": "max", "max": "min", "floor": "ceil", "ceil": "floor", "sqrt": "abs"}
_OPERATIONS = {
    "eq": ("ne", "ilike"),
    "ne": ("eq", "like"),
    "like": ("eq", "ilike"),
    "ilike": ("eq", "like"),
}
_METRICS = {"fuzzy_match": ("bleu", "rouge_l"), "rouge_l": ("fuzzy_match", "rouge_1")}
_OTHER_METRICS = ("fuzzy_match", "rouge_2")
_COMPARISONS: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.GtE, ast.LtE),
    ast.LtE: (ast.Gt, ast.Lt),
    ast.Gt: (ast.LtE, ast.GtE),
    ast.GtE: (ast.Lt, ast.Gt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
}
_ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
}


class Mutation(msgspec.Struct, frozen=True, kw_only=True):
    """A faulty definition.

    Attributes:
        change: What was changed, and where.
        document: Grader JSON; it may not compile.
    """

    change: str
    document: dict[str, Any]


def mutations(document: dict[str, Any]) -> Iterator[Mutation]:
    """Yield every mutation of grader JSON whose deviations are put right."""
    if document["type"] != "multi":
        yield from _of_part(document)
        return
    names = list(document["graders"])
    for change, formula in _formulas(document["calculate_output"], names):
        changed = {**document, "calculate_output": formula}
        yield Mutation(change=f"calculate_output: {change}", document=changed)
    for name, part in document["graders"].items():
        for mutation in _of_part(part):
            graders = {**document["graders"], name: mutation.document}
            changed = {**document, "graders": graders}
            yield Mutation(change=f"{name}: {mutation.change}", document=changed)


def _of_part(part: dict[str, Any]) -> Iterator[Mutation]:
    for key, value, change in _changes(part):
        yield Mutation(change=change, document={**part, key: value})


def _changes(part: dict[str, Any]) -> Iterator[tuple[str, JsonValue, str]]:
    """Yield key, new value and what that changes."""
    match part["type"]:
        case "string_check":
            for operation in _OPERATIONS[part["operation"]]:
                yield "operation", operation, f"operation {part['operation']} → {operation}"
        case "text_similarity":
            metric = part["evaluation_metric"]
            for other in _METRICS.get(metric, _OTHER_METRICS):
                yield "evaluation_metric", other, f"evaluation_metric {metric} → {other}"
        case "score_model":
            yield from _ranges(*(part.get("range") or (0, 1)))
        case "label_model":
            yield from _passing(part["labels"], part["passing_labels"])
        case "python":
            for change, source in _sources(part["source"]):
                yield "source", source, change
        case _:  # an endpoint: what it does is not in the definition
            return


def _ranges(low: float, high: float) -> Iterator[tuple[str, JsonValue, str]]:
    middle = (low + high) / 2
    for changed in ([low, middle], [middle, high]):
        yield "range", changed, f"range [{low}, {high}] → {changed}"


def _passing(labels: list[str], passing: list[str]) -> Iterator[tuple[str, JsonValue, str]]:
    for label in labels:
        without = [each for each in passing if each != label]
        changed = without if label in passing else [*passing, label]
        yield "passing_labels", changed, f"passing_labels {passing} → {changed}"


def _formulas(formula: str, names: list[str]) -> Iterator[tuple[str, str]]:
    """Yield what was changed and the changed formula."""
    for match in _TOKEN.finditer(formula):
        token = match[0]
        others: list[str] = []
        if match["number"] and float(token) >= _TINY:
            others = [f"{float(token) * 1.5 + 0.1:g}"]
        elif match["operator"]:
            others = [_OPERATORS[token]]
        elif token in _FUNCTIONS:
            others = [_FUNCTIONS[token]]
        elif token in names and len(names) > 1:
            others = [names[(names.index(token) + 1) % len(names)]]
        for other in others:
            changed = f"{formula[: match.start()]}{other}{formula[match.end() :]}"
            yield f"{token} → {other} at {match.start() + 1}", changed


def _sources(source: str) -> Iterator[tuple[str, str]]:
    """Yield what was changed and the changed source, from the first line to the last."""
    tree = ast.parse(source)
    for node in sorted(ast.walk(tree), key=lambda node: getattr(node, "lineno", 0)):
        for field, old, new in _node_changes(node):
            line = f"line {getattr(node, 'lineno', 1)}"
            before = ast.unparse(node)
            setattr(node, field, new)
            yield f"{line}: {before} → {ast.unparse(node)}", ast.unparse(tree)
            setattr(node, field, old)


def _node_changes(node: ast.AST) -> Iterator[tuple[str, Any, Any]]:
    """Yield a field of ``node``, what it holds and what it shall hold."""
    if isinstance(node, ast.Compare):
        for index, operator in enumerate(node.ops):
            for other in _COMPARISONS[type(operator)]:
                yield "ops", node.ops, [*node.ops[:index], other(), *node.ops[index + 1 :]]
    elif isinstance(node, ast.BoolOp):
        yield "op", node.op, ast.Or() if isinstance(node.op, ast.And) else ast.And()
    elif isinstance(node, ast.BinOp | ast.AugAssign) and type(node.op) in _ARITHMETIC:
        yield "op", node.op, _ARITHMETIC[type(node.op)]()
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        yield "op", node.op, ast.UAdd()
    elif isinstance(node, ast.If | ast.IfExp | ast.While) and _is_negated(node.test):
        yield "test", node.test, node.test.operand
    elif isinstance(node, ast.Constant):
        yield from (("value", node.value, other) for other in _constants(node.value))


def _constants(value: object) -> list[object]:
    """Return what a constant is changed to; texts stay."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1]
    if isinstance(value, float) and (value == 0 or abs(value) >= _TINY):
        return [value * 1.5 + 0.1]
    return []


def _is_negated(test: ast.expr) -> TypeGuard[ast.UnaryOp]:
    return isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not)
