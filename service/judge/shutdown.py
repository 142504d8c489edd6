"""Judge models that have an end: when, and what to say about it.

Dates come from ``GET /models`` where the upstream lists ``shutdown_date``, else from the dated
table beside this module.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date
from importlib.resources import files
from typing import Final

import msgspec

from service.judge.client import ListedModel

TABLE_FILE: Final = "shutdown_dates.json"


class ShutdownTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Known shutdown dates.

    Attributes:
        as_of: The day the table was written.
        source: Where the dates come from.
        models: First day without the model, by model name.
        replacements: What the vendor names in its place, where it does.
    """

    as_of: date
    source: str
    models: dict[str, date]
    replacements: dict[str, str] = {}


def known_shutdowns() -> ShutdownTable:
    """Return the table that ships with this version."""
    text = files("service.judge").joinpath(TABLE_FILE).read_bytes()
    return msgspec.json.decode(text, type=ShutdownTable)


def listed_shutdowns(models: Iterable[ListedModel]) -> dict[str, date]:
    """Return the dates an upstream lists; what is not a date is left out."""
    found = {}
    for model in models:
        try:
            found[model.id] = date.fromisoformat((model.shutdown_date or "")[:10])
        except ValueError:
            continue
    return found


def shutdown_warning(
    model: str,
    today: date,
    table: ShutdownTable,
    *,
    listed: Mapping[str, date] | None = None,
    successors: Mapping[str, str] | None = None,
) -> str | None:
    """Return one sentence about the end of ``model``; None when none is known.

    Args:
        model: Judge model as a definition names it.
        today: The day to compare with.
        table: Known dates.
        listed: Dates the upstream lists; they override the table.
        successors: Mapping of the routes file; a mapped model is named with its successor.
    """
    end = (listed or {}).get(model) or table.models.get(model)
    if end is None:
        return None
    verb = "shut down" if end <= today else "shuts down"
    sentence = f"judge model {model!r} {verb} on {end.isoformat()}"
    successor = (successors or {}).get(model)
    if successor is not None:
        return f"{sentence}; routes send it to {successor!r}"
    replacement = table.replacements.get(model)
    return sentence if replacement is None else f"{sentence}; its vendor names {replacement!r}"
