"""Starts a definition: README, examples and sources of one type, which pass `check` at once."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeAlias, get_args

from graders.registry import NAME

Kind: TypeAlias = Literal[
    "string_check", "text_similarity", "python", "score_model", "label_model", "multi", "endpoint"
]
KINDS: tuple[Kind, ...] = get_args(Kind)
_TEMPLATES = Path(__file__).parent / "templates"
_NAME, _KEY = "NAME-OF-THE-GRADER", "NAME_OF_THE_GRADER"


class ScaffoldError(ValueError):
    """A definition that cannot be started; one line says why."""


def scaffold(name: str, kind: Kind, directory: Path) -> list[Path]:
    """Write a draft called ``name`` and return its files.

    Raises:
        ScaffoldError: The name cannot be used, or something of that name is there.
    """
    if not NAME.match(name):
        raise ScaffoldError(f"{name!r}: a name is lower-case letters, digits and '-', '_', '.'")
    folder = directory / name
    if folder.exists():
        raise ScaffoldError(f"{folder} exists")
    written: list[Path] = []
    root = _TEMPLATES / kind
    sources = [path for path in root.rglob("*.*") if path.is_file() and path.suffix != ".pyc"]
    for source in sorted(sources):
        file = folder / source.relative_to(root)
        file.parent.mkdir(parents=True, exist_ok=True)
        text = source.read_text(encoding="utf-8")
        key = name.replace("-", "_").replace(".", "_")
        file.write_text(text.replace(_NAME, name).replace(_KEY, key), encoding="utf-8")
        written.append(file)
    return written
