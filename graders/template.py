"""The template language ``{{item.…}}`` and ``{{sample.…}}``, compiled once and rendered many times.

Grammar (spec §9.5)::

    template    = (text | placeholder)*
    placeholder = "{{" ws ("item" | "sample") step+ ws "}}"
    step        = "." [A-Za-z0-9_-]+ | "[" index "]" | "['" key "']" | '["' key '"]'
    index       = "0" | [1-9][0-9]{0,8}
    key         = any text without its own quote and without "}}"; there are no escapes
    ws          = (space | tab | CR | LF)*

``{{`` ends at the first ``}}`` after it; a ``}}`` on its own is text. Everything else between the
braces is a definition error: a bare ``{{item}}``, other namespaces, wildcards, negative indices,
filters; so is a ``{{`` that is never closed. It is not Jinja.

Meaning:

- ``.key`` and ``['key']`` read objects, ``[n]`` reads arrays. A step on a string reads the JSON
  value that the string holds (``arguments.symbols``). What is missing: `InvalidVariableError`.
- Strings render as they are, everything else as ``json.dumps(value, ensure_ascii=False)`` writes
  it, or with the ``python`` style as ``str(value)``. Substituted text is never expanded again.
- A key whose value is null is present and renders ``null`` (``None``), with one exception: null is
  how ``sample.output_json`` says that the answer is not JSON (spec §2.3), so it counts as missing
  (spec §2.4) unless the answer is the JSON text ``null``. A bare answer and the same answer as a
  captured sample object therefore render alike.

Output over the limit is refused before anything is joined: repeating a long value costs no memory.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping
from math import isfinite
from typing import Any, Final, Literal, NoReturn, TypeAlias, cast

import msgspec

from graders.errors import InputTooLongError, InvalidVariableError, TemplateSyntaxError
from graders.sample import JsonValue, Sample, parse_json_text

RenderStyle: TypeAlias = Literal["json", "python"]
Render: TypeAlias = Callable[[dict[str, JsonValue], Sample], str]

MAX_TEMPLATE_CHARS: Final = 4_000_000
MAX_PLACEHOLDERS: Final = 10_000
MAX_PATH_STEPS: Final = 64

# Larger templates use the generic renderer: code for them costs more than it can win back.
_MAX_GENERATED_CHARS: Final = 65_536
_MAX_GENERATED_PLACEHOLDERS: Final = 64
_MAX_NAMED_CHARS: Final = 200  # of a path in a message

_ROOT = re.compile(r"[ \t\r\n]*(item|sample)(?![A-Za-z0-9_-])")
_STEP = re.compile(
    r"\.(?P<name>[A-Za-z0-9_-]+)"
    r"|\[(?P<index>0|[1-9][0-9]{0,8})\]"
    r"|\['(?P<single>[^']*)'\]"
    r'|\["(?P<double>[^"]*)"\]'
)
_NAME = re.compile(r"[A-Za-z0-9_-]+")
_SPACE: Final = " \t\r\n"

# What may go wrong after the namespace, the most specific first; the last one always matches.
_STEP_PROBLEMS = tuple(
    (re.compile(pattern), problem)
    for pattern, problem in (
        (r"[ \t\r\n]*\|", "a placeholder has no filters"),
        (r"\.\*|\[\*", "a path has no wildcards"),
        (r"\[-", "a negative index is not supported"),
        (r"\.", "a dot is followed by a key of letters, digits, '_' and '-'"),
        (r"\[", "brackets hold an index such as [0] or a quoted key such as ['key']"),
        (r"", "a path ends here"),
    )
)
_ALLOWED: Final = "allowed are {{item.…}} and {{sample.…}} with steps .key, [0] and ['key']"


class Path(msgspec.Struct, frozen=True, kw_only=True):
    """What one placeholder reads.

    Attributes:
        namespace: Where the path starts.
        steps: At least one; a str is a key of an object, an int an index from 0 into an array.
    """

    namespace: Literal["item", "sample"]
    steps: tuple[str | int, ...]

    def __str__(self) -> str:
        """Return the path as a template spells it, without braces."""
        return self.spelled(len(self.steps))

    def spelled(self, count: int) -> str:
        """Return the namespace and the first ``count`` steps as a template spells them."""
        return self.namespace + "".join(map(_spelled_step, self.steps[:count]))


class Template(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """A compiled template.

    Attributes:
        source: The text it was compiled from.
        paths: What it reads: each path once, in order of first use.
        literal: The whole text when there is no placeholder, else None.
        render: ``render(item, sample)`` returns the text; raises `InvalidVariableError` for a
            variable that cannot be found and `InputTooLongError` for a text over the limit.
    """

    source: str
    paths: tuple[Path, ...]
    literal: str | None
    render: Render


def compile_template(
    source: str, *, style: RenderStyle = "json", max_output_chars: int
) -> Template:
    """Return the template written in ``source``.

    Args:
        source: At most `MAX_TEMPLATE_CHARS` characters with at most `MAX_PLACEHOLDERS`
            placeholders of at most `MAX_PATH_STEPS` steps.
        style: How values that are not strings render.
        max_output_chars: Longest text that ``render`` returns, in characters.

    Raises:
        TemplateSyntaxError: A placeholder is malformed or a limit is exceeded.
    """
    parts = _parse(source)
    counts = Counter(part for part in parts if isinstance(part, Path))
    plan = _Plan(
        parts=tuple(parts),
        counts=dict(counts),
        literal_chars=sum(len(part) for part in parts if isinstance(part, str)),
        style=style,
        max_output_chars=max_output_chars,
    )
    return Template(
        source=source,
        paths=tuple(counts),
        literal=None if counts else source,
        render=_renderer(plan, source),
    )


def _parse(source: str) -> list[str | Path]:
    """Return the texts and placeholders of ``source`` in order; texts are not empty."""
    if len(source) > MAX_TEMPLATE_CHARS:
        problem = f"a template has at most {MAX_TEMPLATE_CHARS} characters, this one {len(source)}"
        _refuse(problem, source, (MAX_TEMPLATE_CHARS, MAX_TEMPLATE_CHARS))
    parts: list[str | Path] = []
    placeholders = position = 0
    while (opening := source.find("{{", position)) >= 0:
        closing = source.find("}}", opening + 2)
        if closing < 0:
            _refuse("'{{' is never closed by '}}'", source, (opening, opening + 2))
        placeholders += 1
        if placeholders > MAX_PLACEHOLDERS:
            problem = f"a template has at most {MAX_PLACEHOLDERS} placeholders"
            _refuse(problem, source, (opening, closing + 2))
        if opening > position:
            parts.append(source[position:opening])
        parts.append(_parse_path(source, opening + 2, closing))
        position = closing + 2
    if position < len(source):
        parts.append(source[position:])
    return parts


def _parse_path(source: str, start: int, end: int) -> Path:
    """Return the path between two braces: ``ws ("item" | "sample") step+ ws``."""
    root = _ROOT.match(source, start, end)
    if root is None:
        _refuse_namespace(source, start, end)
    steps: list[str | int] = []
    position = root.end()
    while (step := _STEP.match(source, position, end)) is not None:
        text = step[step.lastindex or 0]
        steps.append(int(text) if step.lastgroup == "index" else text)
        if len(steps) > MAX_PATH_STEPS:
            _refuse(f"a path has at most {MAX_PATH_STEPS} steps", source, step.span())
        position = step.end()
    rest = source[position:end].strip(_SPACE)
    if rest:
        problem = next(text for found, text in _STEP_PROBLEMS if found.match(source, position, end))
        first = source.index(rest, position)
        _refuse(f"{problem}; {_ALLOWED}", source, (first, first + len(rest)))
    if not steps:
        problem = f"{{{{{root[1]}}}}} names no field; write {{{{{root[1]}.name}}}}"
        _refuse(problem, source, root.span(1))
    return Path(namespace=cast("Literal['item', 'sample']", root[1]), steps=tuple(steps))


def _refuse_namespace(source: str, start: int, end: int) -> NoReturn:
    inside = source[start:end].strip(_SPACE)
    if not inside:
        _refuse(f"an empty placeholder; {_ALLOWED}", source, (start - 2, end + 2))
    first = source.index(inside, start)
    name = _NAME.match(inside)
    if name is None:
        problem = "a placeholder starts with item or sample"
        _refuse(f"{problem}; {_ALLOWED}", source, (first, first + len(inside)))
    problem = f"unknown namespace {_shortened(name[0])!r}"
    _refuse(f"{problem}; {_ALLOWED}", source, (first, first + name.end()))


def _refuse(problem: str, source: str, span: tuple[int, int]) -> NoReturn:
    line = source.count("\n", 0, span[0]) + 1
    column = span[0] - source.rfind("\n", 0, span[0])
    message = f"{problem} (line {line}, column {column})"
    raise TemplateSyntaxError(message, source=source, span=span)


def _spelled_step(step: str | int) -> str:
    if isinstance(step, int):
        return f"[{step}]"
    if _NAME.fullmatch(step):
        return f".{step}"
    return f'["{step}"]' if "'" in step else f"['{step}']"


def _shortened(text: str) -> str:
    return text if len(text) <= _MAX_NAMED_CHARS else f"{text[:_MAX_NAMED_CHARS]}…"


# One encoder for all calls: `json.dumps` with options builds a new one every time. Values come from
# JSON, so there is no cycle to look for.
_json_text = json.JSONEncoder(ensure_ascii=False, check_circular=False).encode


def _json_bool(value: bool) -> str:  # noqa: FBT001 - the value to write, not a flag
    return "true" if value else "false"


def _json_float(value: float) -> str:
    return repr(value) if isfinite(value) else _json_text(value)


def _json_null(_value: None) -> str:
    return "null"


_TEXT: Final[Mapping[RenderStyle, Callable[[JsonValue], str]]] = {
    "json": _json_text,
    "python": str,
}
# Containers are left to the generic renderer, which counts what it has written so far.
_SCALAR_TEXT: Final[Mapping[RenderStyle, Mapping[type, Callable[[Any], str]]]] = {
    "json": {int: repr, bool: _json_bool, float: _json_float, type(None): _json_null},
    "python": {int: str, bool: str, float: str, type(None): str},
}


class _Plan(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """A parsed template and the generic way to render it: slower, and the one place that raises."""

    parts: tuple[str | Path, ...]
    counts: dict[Path, int]
    literal_chars: int
    style: RenderStyle
    max_output_chars: int

    def render(self, item: dict[str, JsonValue], sample: Sample) -> str:
        """Return the rendered text; every path is read and rendered once."""
        texts: dict[Path, str] = {}
        decoded: dict[str, JsonValue] = {}
        chars = self.literal_chars
        self._check_length(chars)
        for path, count in self.counts.items():
            texts[path] = self._text(path, _read(path, item, sample, decoded))
            chars += count * len(texts[path])
            self._check_length(chars)
        return "".join([part if isinstance(part, str) else texts[part] for part in self.parts])

    def _text(self, path: Path, value: JsonValue) -> str:
        if isinstance(value, str):
            return value
        try:
            return _TEXT[self.style](value)
        except (RecursionError, ValueError) as error:  # ValueError: an integer of over 4,300 digits
            name = _shortened(str(path))
            raise InvalidVariableError(f"{name} is too deep or too large to be rendered") from error

    def _check_length(self, chars: int) -> None:
        if chars > self.max_output_chars:
            raise InputTooLongError(
                f"a rendered text needs at least {chars} characters,"
                f" the limit is {self.max_output_chars}"
            )


def _read(
    path: Path, item: dict[str, JsonValue], sample: Sample, decoded: dict[str, JsonValue]
) -> JsonValue:
    """Return the value at ``path``; ``decoded`` remembers strings that were read as JSON."""
    value, first = _root_value(path, item, sample)
    for depth, step in enumerate(path.steps[first:], start=first):
        holder = value
        if isinstance(value, str):
            if value not in decoded:
                decoded[value] = parse_json_text(value)
            value = decoded[value]
        if not _has(value, step):
            reason = f"{_shortened(path.spelled(depth))} is {_described(holder, value)}"
            raise InvalidVariableError(f"{_shortened(str(path))} cannot be found: {reason}")
        value = value[step]
    return value


def _has(value: JsonValue, step: str | int) -> bool:
    if isinstance(step, str):
        return isinstance(value, dict) and step in value
    return isinstance(value, list) and step < len(value)


def _root_value(path: Path, item: dict[str, JsonValue], sample: Sample) -> tuple[JsonValue, int]:
    """Return the value to start from and how many steps it takes up."""
    if path.namespace == "item":
        return item, 0
    if path.steps[0] == "output_text":
        return sample.output_text, 1
    if path.steps[0] != "output_json":
        return sample.namespace, 0
    if sample.output_json is None and sample.output_text.strip(_SPACE) != "null":
        reason = "the answer is not JSON, so there is no sample.output_json"
        raise InvalidVariableError(f"{_shortened(str(path))} cannot be found: {reason}")
    return sample.output_json, 1


def _described(holder: JsonValue, value: JsonValue) -> str:
    """Say what ``holder`` is, without its content; ``value`` is what it was read as."""
    if isinstance(value, dict):
        return "an object without this key"
    if isinstance(value, list):
        return f"an array of length {len(value)}"
    if isinstance(holder, str):
        return "a string that holds no JSON object or array"
    if holder is None:
        return "null"
    return "a boolean" if isinstance(holder, bool) else "a number"


def _renderer(plan: _Plan, source: str) -> Render:
    """Return the fastest renderer that is worth building for ``plan``."""
    if plan.literal_chars > plan.max_output_chars:
        return plan.render
    if not plan.counts:
        return lambda _item, _sample: source
    placeholders = sum(plan.counts.values())
    if len(source) > _MAX_GENERATED_CHARS or placeholders > _MAX_GENERATED_PLACEHOLDERS:
        return plan.render
    scope: dict[str, Any] = {"slow": plan.render, "scalar": _SCALAR_TEXT[plan.style]}
    # Only paths that parsed and texts reach the code, both as repr() of str and int.
    exec(_generated(plan), scope)  # noqa: S102 - see the line above
    return cast("Render", scope["render"])


def _generated(plan: _Plan) -> str:
    """Return code of a function that renders the usual case and leaves all others to ``slow``."""
    names = {path: f"v{number}" for number, path in enumerate(plan.counts)}
    sizes = [
        f"len({names[path]})" + (f" * {count}" if count > 1 else "")
        for path, count in plan.counts.items()
    ]
    allowed_chars = plan.max_output_chars - plan.literal_chars
    if len(plan.parts) == 1:
        joined = "v0"
    else:
        # CPython compiles a constant "…%s…" % (…) to the code of an f-string.
        text = "".join(
            part.replace("%", "%%") if isinstance(part, str) else "%s" for part in plan.parts
        )
        values = "".join(f"{names[part]}, " for part in plan.parts if isinstance(part, Path))
        joined = f"{text!r} % ({values})"
    body = [line for path, name in names.items() for line in _generated_read(path, name)]
    body.append(f"if {' + '.join(sizes)} <= {allowed_chars}: return {joined}")
    lines = [
        "def render(item, sample):",
        "    try:",
        *(f"        {line}" for line in body),
        "    except (LookupError, TypeError, ValueError): pass",
        "    return slow(item, sample)",
    ]
    return "\n".join(lines)


def _generated_read(path: Path, name: str) -> list[str]:
    """Return statements that set ``name`` to the text at ``path``, or raise when it is unusual."""
    lines = []
    steps = path.steps
    if path.namespace == "item":
        value = "item"
    elif steps[0] in {"output_text", "output_json"}:
        value, steps = f"sample.{steps[0]}", steps[1:]
    else:
        value = "sample.namespace"
    for step in steps:
        if isinstance(step, int):
            # A string can be indexed too, but then holds JSON.
            lines += [f"{name} = {value}", f"if {name}.__class__ is not list: raise TypeError"]
            value = name
        value += f"[{step!r}]"
    lines.append(f"{name} = {value}")
    if value == "sample.output_json":
        lines.append(f"if {name} is None: raise TypeError")
    lines.append(f"if {name}.__class__ is not str: {name} = scalar[{name}.__class__]({name})")
    return lines
