"""The snippets of docs/dialects: fenced blocks whose info string is a language and a name."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[2] / "docs" / "dialects"
NAMES = sorted(
    path.stem for path in FOLDER.glob("*.md") if path.stem not in {"README", "reference"}
)
HOST = "http://gradekeeper:8080"
_BLOCK = re.compile(r"^```\w+ (\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: str) -> dict[str, str]:
    """Return the blocks of a page by name."""
    text = (FOLDER / f"{page}.md").read_text(encoding="utf-8")
    return dict(_BLOCK.findall(text))


def snippet(page: str, name: str, *, url: str = HOST) -> str:
    """Return a block of a page, with the address of a running service put in."""
    return blocks(page)[name].replace(HOST, url)


def capital() -> dict[str, list[Any]]:
    """Return the definitions that the pages speak of."""
    return {"capital": [json.loads(snippet("README", "capital"))]}
