"""``multi``: a formula over the rewards of named graders (spec §3.6, §9.10).

Receives numbers, not graders: a failed part counts 0.0 and its flags rise to the parent, both in
the engine. The result is not clamped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from graders import schema
from graders.building import Builder
from graders.errors import FormulaSyntaxError
from graders.formula import compile_formula


def build(
    grader: schema.Multi, builder: Builder, pointer: str
) -> Callable[[Mapping[str, float]], float]:
    """Return the compiled ``calculate_output``; syntax errors and unknown names are recorded."""
    if not grader.graders:  # reported by whoever read the definition
        return _unusable
    try:
        formula = compile_formula(grader.calculate_output, grader.graders)
    except FormulaSyntaxError as error:
        builder.error(f"{pointer}/calculate_output", str(error), "invalid_formula")
        return _unusable
    unused = [key for key in grader.graders if key not in formula.variables]
    for key in unused:
        message = f"'{key}' is graded but calculate_output does not use it."
        builder.warning(f"{pointer}/graders", message, "unused_grader")
    return formula.evaluate


def _unusable(_values: Mapping[str, float]) -> float:
    return 0.0  # never called: the definition is refused
