"""CONFIGURATION.md: every setting with its default, values and meaning, from `settings` itself."""

from __future__ import annotations

from typing import Any, Literal, get_args, get_origin

import msgspec
from msgspec import Meta

from service.settings import GROUPS, PREFIX, RUNNER_SETTINGS, Settings


def document() -> str:
    """Return CONFIGURATION.md."""
    lines = [
        "# Configuration",
        "",
        "Settings come from environment variables, read once at start; the effective ones are then",
        "logged, secrets masked. A `GRADEKEEPER_` variable that is not listed stops the start.",
        "",
        "Written by `gradekeeper settings --markdown` from `service/settings.py`; do not edit.",
    ]
    for field in msgspec.structs.fields(Settings):
        if field.name in GROUPS:
            lines += [
                "",
                f"## {GROUPS[field.name]}",
                "",
                *(_RUNNER_NOTE if field.name == "runner_listen" else ()),
                "| variable | default | values | what it does |",
                "|---|---|---|---|",
            ]
        description = next(m.description for m in get_args(field.type)[1:] if isinstance(m, Meta))
        default = "" if field.default == "" else f"`{_shown(field.default)}`"
        variable = f"`{PREFIX}{field.name.upper()}`"
        lines.append(f"| {variable} | {default} | {_values(field.type)} | {description} |")
    return "\n".join(lines) + "\n"


_RUNNER_NOTE = (
    "A runner takes this and "
    + ", ".join(f"`{name.upper()}`" for name in sorted(RUNNER_SETTINGS - {"runner_listen"}))
    + f", each after `{PREFIX}`. Every other variable under the prefix stops its start.",
    "",
)


def _shown(value: Any) -> str:  # noqa: ANN401 - the default of any setting
    return str(value).lower() if isinstance(value, bool) else str(value)


def _values(annotation: Any) -> str:  # noqa: ANN401 - a type form
    base, *metas = get_args(annotation)
    if get_origin(base) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(base))
    if base is bool:
        return "`true`, `false`"
    name = {"str": "text", "int": "integer", "float": "number"}[base.__name__]
    bounds = [
        f"{sign} {bound}"
        for meta in metas
        for sign, bound in ((">", meta.gt), ("≥", meta.ge), ("≤", meta.le))
        if bound is not None
    ]
    return " ".join([name, *([", ".join(bounds)] if bounds else [])])
