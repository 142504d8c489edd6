"""How a request's prompt, response and label become ``item`` and ``sample``: the URL's say in it.

::

    ?label=reference&prompt=question&item.difficulty=metadata.difficulty&sample=choices.0.message

A path is keys and list positions joined by dots. It may continue into a text that holds JSON, as
template paths may (spec §9.5).
"""

from __future__ import annotations

import difflib
import re
from typing import Any
from urllib.parse import parse_qsl

import msgspec

from graders.errors import RowError
from graders.sample import JsonValue, parse_json_text
from service.dialects.contract import Dialect, Options, ParameterError, Path, Pick

_MAX_PARAMETERS = 64
_MAX_QUERY_CHARS = 4096
_ITEM = "item."
_KEY = re.compile(r"[A-Za-z0-9_-]{1,100}\Z")
_PATH = re.compile(r"[^.]{1,100}(?:\.[^.]{1,100}){0,15}\Z")
_ABSENT: Any = object()


def parse(dialect: Dialect, query: str) -> Options:
    """Return the options that ``query``, a URL's query string, states for ``dialect``.

    Raises:
        ParameterError: A parameter is unknown, stands twice or has an unusable value.
    """
    known = {parameter.name: parameter for parameter in dialect.parameters}
    chosen = {parameter.name: parameter.default for parameter in dialect.parameters}
    picks: dict[str, Pick] = {}
    for name, value in _pairs(query):
        if name.startswith(_ITEM):
            if name in picks:
                raise ParameterError(name, "stands twice")
            picks[name] = _pick(name, value)
            continue
        if name not in known:
            raise ParameterError(name, _unknown(name, [*known, "item.<field>"], dialect.name))
        allowed = known[name].values
        if allowed and value not in allowed:
            raise ParameterError(name, f"expected {' or '.join(allowed)}, got {value[:40]!r}")
        chosen[name] = value
    for name in ("prompt", "label"):
        if chosen.get(name) and not _KEY.match(chosen[name]):
            raise ParameterError(name, "expected the name of an item field")
    policies: Any = {
        name: chosen[name]
        for name in ("on_grader_failure", "on_infrastructure_failure")
        if name in chosen
    }
    return Options(
        chosen=chosen,
        prompt=chosen.get("prompt", ""),
        label=chosen.get("label", ""),
        picks=tuple(picks.values()),
        sample=_path("sample", chosen["sample"]) if chosen.get("sample") else None,
        strips_end_tokens=chosen.get("end_tokens") == "strip",
        splits_reasoning=chosen.get("reasoning") == "split",
        **policies,
    )


def _pairs(query: str) -> list[tuple[str, str]]:
    if len(query) > _MAX_QUERY_CHARS:
        raise ParameterError("query", f"longer than {_MAX_QUERY_CHARS} characters")
    try:
        pairs = parse_qsl(
            query, keep_blank_values=True, errors="strict", max_num_fields=_MAX_PARAMETERS
        )
    except ValueError as error:
        raise ParameterError("query", "too many parameters, or not UTF-8") from error
    names = [name for name, _ in pairs]
    for name in names:
        if names.count(name) > 1:
            raise ParameterError(name[:100], "stands twice")
    return pairs


def _unknown(name: str, known: list[str], dialect: str) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
    return f"no parameter of {dialect}; {hint}"


def _pick(name: str, value: str) -> Pick:
    key = name.removeprefix(_ITEM)
    if not _KEY.match(key):
        raise ParameterError(name[:100], "expected item. and the name of a field")
    return Pick(key, _path(name, value))


def _path(name: str, text: str) -> Path:
    if not _PATH.match(text):
        raise ParameterError(name, f"expected keys joined by dots, got {text[:40]!r}")
    return tuple(text.split("."))


def at(source: JsonValue, path: Path, parameter: str) -> JsonValue:
    """Return what stands at ``path`` in ``source``.

    Raises:
        RowError: Nothing does; the message names the parameter that asked.
    """
    value = source
    for number, step in enumerate(path):
        value = _step(value, step)
        if value is _ABSENT:
            reached = ".".join(path[: number + 1])
            raise RowError(f"parameter {parameter}: the request has no {reached!r}")
    return value


def _step(value: JsonValue, step: str) -> JsonValue:
    if isinstance(value, str):
        value = parse_json_text(value)
    if isinstance(value, dict):
        return value.get(step, _ABSENT)
    if isinstance(value, list) and step.isdecimal() and int(step) < len(value):
        return value[int(step)]
    return _ABSENT


def source_of(body: bytes) -> JsonValue:
    """Return the whole request for paths to look into; only called when the URL has paths."""
    return msgspec.json.decode(body)


def fill(
    item: dict[str, JsonValue],
    options: Options,
    *,
    prompt: JsonValue = None,
    label: JsonValue = None,
    source: JsonValue = None,
) -> dict[str, JsonValue]:
    """Return ``item`` with the prompt, the label and the URL's further fields put in.

    Args:
        item: What the dialect itself makes of the row; changed in place.
        options: Of the URL.
        prompt: None where the caller sends none; then the item has no such field. A field of that
            name in the data set itself is kept.
        label: None likewise. A grader that reads it then fails; it once compared with ``null``.
        source: What paths look into.

    Raises:
        RowError: A path leads nowhere.
    """
    if options.prompt and prompt is not None:
        item.setdefault(options.prompt, prompt)
    if options.label and label is not None:
        item[options.label] = label
    for pick in options.picks:
        item[pick.key] = at(source, pick.path, f"{_ITEM}{pick.key}")
    return item
