"""``string_check``: compare two rendered strings, exactly as they are (spec §3.1, §9.6).

No trimming and no Unicode normalisation. ``like`` means that ``input`` contains ``reference``;
``%`` and ``_`` stand for themselves.
"""

from __future__ import annotations

import operator
from collections.abc import Callable

from graders import schema
from graders.building import Builder, Item, Score
from graders.sample import Sample


def _ilike(text: str, reference: str) -> bool:
    return reference.lower() in text.lower()


_OPERATIONS: dict[str, Callable[[str, str], bool]] = {
    "eq": operator.eq,
    "ne": operator.ne,
    "like": operator.contains,
    "ilike": _ilike,
}


def score(operation: schema.Operation, text: str, reference: str) -> float:
    """Return 1.0 when ``operation`` holds for the two rendered strings, else 0.0."""
    return 1.0 if _OPERATIONS[operation](text, reference) else 0.0


def build(grader: schema.StringCheck, builder: Builder, pointer: str) -> Score:
    """Return the compiled comparison; template errors are recorded in ``builder``."""
    text = builder.template(grader.input, f"{pointer}/input").render
    reference = builder.template(grader.reference, f"{pointer}/reference").render
    holds = _OPERATIONS[grader.operation]

    def graded(item: Item, sample: Sample) -> float:
        return 1.0 if holds(text(item, sample), reference(item, sample)) else 0.0

    return graded
