"""``python``: user code ``grade(sample, item)`` gives the reward (spec §3.5, §9.9).

The code runs behind the `Sandbox` port, never here. Here is what surrounds it: what is checked
before (size, image, syntax), what the code gets, and what counts as a number. The reward is not
clamped.
"""

from __future__ import annotations

import json
import math
import re
import symtable
import warnings
from collections.abc import Callable

import msgspec

from graders import schema
from graders.building import DEFAULT_IMAGE_TAG, MAX_SOURCE_BYTES, Builder, Item
from graders.errors import PythonGraderRuntimeError
from graders.ports import SandboxResult, SandboxRun
from graders.sample import Sample

_ENCODER = msgspec.json.Encoder()
_FSTRING = re.compile(r"""[fF][rR]?["']|[rR][fF]["']""")
_MAX_CHECKED_BYTES = 2 * MAX_SOURCE_BYTES  # over all parts of a multi: 0.8 s at worst
_MAX_PLACEHOLDER_COST = 1_000_000_000  # placeholders × characters: 0.3 s
_MAX_IMPORT_DOTS = 200
_CONTINUATION = re.compile(r"\\(?:\r\n?|\n)")
_LINE_END = re.compile(r"[\r\n]+")
_IMPORT = re.compile(r"\b(?:from|import)\b")


def build_request(
    grader: schema.Python, builder: Builder, pointer: str
) -> Callable[[Item, Sample], SandboxRun]:
    """Return what builds the sandbox run; a source too long or an unknown image is recorded."""
    builder.needs_whole_item()
    size = _size(grader.source)
    if size > MAX_SOURCE_BYTES:
        message = f"source has {size} bytes; the limit is {MAX_SOURCE_BYTES}."
        builder.error(f"{pointer}/source", message, "source_too_long")
    image_tag = grader.image_tag or DEFAULT_IMAGE_TAG
    if image_tag not in builder.options.image_tags:
        builder.choice(f"{pointer}/image_tag", image_tag, builder.options.image_tags)

    def request(item: Item, sample: Sample) -> SandboxRun:
        payload = _payload({"sample": sample.namespace, "item": item})
        return SandboxRun(source=grader.source, image_tag=image_tag, payload=payload)

    return request


def _payload(arguments: Item) -> bytes:
    try:
        return _ENCODER.encode(arguments)
    except UnicodeEncodeError:  # a lone surrogate: legal in Python and in JSON's escapes
        return json.dumps(arguments).encode()


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
    The source is parsed and its scopes are resolved, no code is generated for it: what only the
    code generator refuses (a ``return`` outside a function) is found by the sandbox.
    """
    place = f"{pointer}/source"
    size = _size(source)
    if size > MAX_SOURCE_BYTES:
        return  # recorded already
    builder.checked_bytes += size
    if builder.checked_bytes > _MAX_CHECKED_BYTES or _is_costly(source):
        message = "source is too long or too unusual to be checked here; the sandbox will decide."
        builder.warning(place, message, "unchecked_source")
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an odd escape sequence is the author's business
            module = symtable.symtable(source, "grader", "exec")
    except SyntaxError as error:
        message = f"source does not compile: {error.msg} (line {error.lineno or 1})"
        builder.error(place, message, "invalid_source")
    except (MemoryError, RecursionError):
        # How deep is too deep depends on the stack already in use: only the sandbox can tell.
        message = "source nests too deeply to be checked here; the sandbox will decide."
        builder.warning(place, message, "unchecked_source")
    except ValueError as error:  # null bytes and lone surrogates
        builder.error(place, f"source does not compile: {error}", "invalid_source")
    else:
        if not _binds_grade(module):
            message = "source seems to define no grade(sample, item)."
            builder.warning(place, message, "missing_grade")


def _size(source: str) -> int:
    """Return the length of ``source`` in bytes."""
    return len(source.encode("utf-8", "surrogatepass"))


def _is_costly(source: str) -> bool:
    """Say whether CPython's parser might need seconds or gigabytes for ``source``.

    Both are quadratic (measured on 3.11): the parser joins dotted module names pair by pair, so
    256 kB of ``import a.a.a…`` take over 3 GB, and looks for the place of every f-string
    placeholder from the start, so 87,000 of them take 5 s.
    """
    if source.count("{") * len(source) > _MAX_PLACEHOLDER_COST and _FSTRING.search(source):
        return True
    lines = _LINE_END.split(_CONTINUATION.sub(" ", source))
    return any(line.count(".") > _MAX_IMPORT_DOTS and _IMPORT.search(line) for line in lines)


def _binds_grade(module: symtable.SymbolTable) -> bool:
    if "grade" not in module.get_identifiers():
        return False
    symbol = module.lookup("grade")
    return symbol.is_assigned() or symbol.is_imported()
