"""Assembles ``src/grader.json``: every ``{"$file": …}`` becomes the text of that file.

A path is relative to ``src`` and stays within it. One line break at the end of a file is not part
of the text, so that editors may put it there.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from graders.registry import repeated_keys
from graders.sample import JsonValue

SOURCE = "grader.json"
_MAX_BYTES = 4 * 1024 * 1024  # of one file: more than any grader may have


class AssemblyError(ValueError):
    """Files that give no grader; one line says which and why."""


def assemble(source: Path) -> JsonValue:
    """Return the grader in the folder ``source`` as one document.

    Raises:
        AssemblyError: A file is missing, lies outside, or cannot be read.
    """
    file = source / SOURCE
    text = _read(file).encode()
    try:
        document = msgspec.json.decode(text)
        repeated = repeated_keys(text)
    except (ValueError, RecursionError) as error:
        raise AssemblyError(f"{file}: not JSON: {error}") from error
    if repeated:
        raise AssemblyError(f"{file}: the key '{repeated[0]}' stands twice in one object")
    return _assembled(document, source, "")


def _assembled(value: JsonValue, source: Path, pointer: str) -> JsonValue:
    if isinstance(value, list):
        pairs = enumerate(value)
        return [_assembled(child, source, f"{pointer}/{index}") for index, child in pairs]
    if not isinstance(value, dict):
        return value
    if "$file" not in value:
        return {key: _assembled(child, source, f"{pointer}/{key}") for key, child in value.items()}
    name = value["$file"]
    place = f"{source / SOURCE}#{pointer}"
    if len(value) > 1 or not isinstance(name, str):
        raise AssemblyError(f'{place}: expected {{"$file": "path"}} and nothing else')
    file = (source / name).resolve()
    if not file.is_relative_to(source.resolve()):
        raise AssemblyError(f"{place}: {name} lies outside of {source}")
    return _read(file).removesuffix("\n").removesuffix("\r")


def _read(file: Path) -> str:
    try:
        content = file.read_bytes()
    except OSError as error:
        raise AssemblyError(f"{file}: {error.strerror}") from error
    if len(content) > _MAX_BYTES:
        raise AssemblyError(f"{file}: over {_MAX_BYTES} bytes")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise AssemblyError(f"{file}: not UTF-8: {error}") from error
