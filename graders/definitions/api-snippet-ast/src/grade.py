"""A ladder for Python snippets: one code block, code that parses, patterns in its syntax tree."""

import ast
import re
import warnings
from typing import Any

from ast_grep_py import SgNode, SgRoot

FORM = 0.1  # for one code block and nothing else
PARSES = 0.1  # for code that parses and calls something
FOUND = 0.8  # for all patterns, in proportion
MOST = 20_000  # characters of an answer
BLOCK = re.compile(r"```(?:py(?:thon)?3?)?[ \t]*\n(.*?)```", re.DOTALL | re.IGNORECASE)


def grade(sample: dict[str, Any], item: dict[str, Any]) -> float:
    """Return the sum of the steps that an answer reaches; 0.0 for no code, and for too much."""
    text = stripped(sample.get("output_text"))
    blocks = BLOCK.findall(text)
    code = blocks[0] if blocks else text
    if not code.strip() or len(blocks) > 1 or len(text) > MOST:
        return 0.0
    form = FORM if BLOCK.fullmatch(text) else 0.0
    if not calls_something(code):
        return form
    tree = SgRoot(code, "python").root()
    wanted = listed(item.get("patterns"))
    found = sum(stands_in(tree, pattern) for pattern in wanted)
    if any(stands_in(tree, pattern) for pattern in listed(item.get("forbidden"))):
        found = 0
    return form + PARSES + FOUND * found / max(len(wanted), 1)


def calls_something(code: str) -> bool:
    """Say whether ``code`` is Python with a call in it; a bare word is Python, too."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return any(isinstance(node, ast.Call) for node in ast.walk(tree))


def stands_in(tree: SgNode, pattern: object) -> bool:
    """Say whether ``pattern`` matches a node; what ast-grep cannot read matches none."""
    try:
        return isinstance(pattern, str) and tree.find(pattern=pattern) is not None
    except (RuntimeError, ValueError):
        return False


def stripped(value: object) -> str:
    """Return ``value`` with plain line ends and no white space around; nothing if it is no text."""
    return value.replace("\r\n", "\n").strip() if isinstance(value, str) else ""


def listed(value: object) -> list[Any]:
    """Return ``value`` if it is a list, else an empty one."""
    return value if isinstance(value, list) else []
