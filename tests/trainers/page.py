"""The snippets of docs/trainers.md: blocks that are marked with a trainer's name."""

from __future__ import annotations

import re

from tests.trainers.servers import ROOT

PAGE = (ROOT / "docs" / "trainers.md").read_text("utf-8")
SNIPPETS: dict[str, str] = dict(
    re.findall(r"<!-- test: (\w+) -->\n```\w+\n(.*?)```", PAGE, re.DOTALL)
)
ADDRESS = "http://127.0.0.1:8080"


def snippet(name: str, url: str) -> str:
    """Return a snippet with the address of a running server put in."""
    assert ADDRESS in SNIPPETS[name]
    return SNIPPETS[name].replace(ADDRESS, url)
