"""``python``: user code ``grade(sample, item)`` gives the reward (spec §3.5, §9.9).

The code runs behind the `Sandbox` port, never here. Here is what surrounds it: what is checked before
(size, image, syntax), what the code gets, and what counts as a number. The reward is not clamped.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable

import msgspec

from graders import schema
from graders.building import DEFAULT_IMAGE_TAG, MAX_SOURCE_BYTES, Builder, Item
from graders.errors import PythonGraderRuntimeError
from graders.ports import SandboxResult, SandboxRun
from graders.sample import Sample

_ENCODER = msgspec.json.Encoder()


def build_request(
    grader: schema.Python, builder: Builder, pointer: str
) -> Callable[[Item, Sample], SandboxRun]:
    """Return what builds the sandbox run; a source too long or an unknown image is recorded."""
    builder.needs_whole_item()
    size = len(grader.source.encode("utf-8", "surrogatepass"))
    if size > MAX_SOURCE_BYTES:
        message = f"Invalid value for 'source': {size} bytes; the limit is {MAX_SOURCE_BYTES}."
        builder.error(f"{pointer}/source", message, "source_too_long")
    image_tag = grader.image_tag or DEFAULT_IMAGE_TAG
    if image_tag not in builder.options.image_tags:
        known = ", ".join(f"'{tag}'" for tag in builder.options.image_tags)
        message = f"Invalid value for 'image_tag': '{image_tag}'. Supported values are: {known}."
        builder.error(f"{pointer}/image_tag", message, "invalid_value")

    def request(item: Item, sample: Sample) -> SandboxRun:
        payload = _ENCODER.encode({"sample": sample.namespace, "item": item})
        return SandboxRun(source=grader.source, image_tag=image_tag, payload=payload)

    return request


def score(result: SandboxResult) -> float:
    """Return the number that ``grade`` returned.

    Raises:
        PythonGraderRuntimeError: It returned no finite number, raised, or ran into a limit.
    """
    if result.outcome != "value" or result.value is None:
        raise PythonGraderRuntimeError(result.details or result.outcome)
    if not math.isfinite(result.value):
        raise PythonGraderRuntimeError(f"grade returned {result.value}, which is no finite number")
    return result.value


def check_source(source: str, builder: Builder, pointer: str) -> None:
    """Record a source that does not compile, or that seems to define no ``grade``.

    Only validation asks for this: at run such a source is a runtime error of that run (spec §9.9).
    """
    try:
        module = ast.parse(source)
    except SyntaxError as error:
        message = f"source does not compile: {error.msg} (line {error.lineno})"
        builder.error(f"{pointer}/source", message, "invalid_source")
        return
    except (ValueError, RecursionError, MemoryError) as error:
        builder.error(f"{pointer}/source", f"source does not compile: {error}", "invalid_source")
        return
    if "grade" not in _bound_names(module):
        message = "source seems to define no grade(sample, item)."
        builder.warning(f"{pointer}/source", message, "missing_grade")


def _bound_names(module: ast.Module) -> set[str]:
    """Return the names that statements of ``module`` bind at any depth outside function bodies."""
    names: set[str] = set()
    pending: list[ast.AST] = [module]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
            continue
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.alias):
            names.add(node.asname or node.name)
        pending.extend(ast.iter_child_nodes(node))
    return names | ({"grade"} if "*" in names else set())
