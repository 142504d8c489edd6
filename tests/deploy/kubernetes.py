"""Kubernetes' own JSON schemas, and its way to write sizes."""

from __future__ import annotations

import re
from functools import cache
from importlib import resources
from typing import Any, TypeAlias

import jsonschema
import msgspec
import referencing
from referencing.jsonschema import DRAFT202012

Document: TypeAlias = dict[str, Any]

# The oldest release that knows all fields used, and the newest that the schemas are published for.
RELEASES = ("1.30", "1.37")
GIB = 1024**3
_UNITS = {"Mi": 1024**2, "Gi": GIB}
_DEFINITIONS = "_definitions.json"


def size(text: str) -> int:
    """Return the bytes that ``text`` (``512Mi``) stands for."""
    return int(text[:-2]) * _UNITS[text[-2:]]


def schema_problems(document: Document, release: str) -> list[str]:
    """Return what the strict schema of a document's kind finds wrong with it."""
    group, _, version = document["apiVersion"].rpartition("/")
    kind = "-".join(filter(None, (document["kind"].lower(), group.partition(".")[0], version)))
    return _problems(_schema(release, f"{kind}.json"), document, release)


def part_problems(part: str, value: Document) -> list[str]:
    """Return what the newest release finds wrong with a ``Container`` or another part."""
    reference = {"$ref": f"{_DEFINITIONS}#/$defs/io.k8s.api.core.v1.{part}"}
    return _problems(reference, value, RELEASES[-1])


def _problems(schema: Any, value: Document, release: str) -> list[str]:
    validator = jsonschema.Draft202012Validator(schema, registry=_registry(release))
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(value)]


@cache
def _registry(release: str) -> referencing.Registry[Any]:
    found = referencing.Resource.from_contents(_schema(release, _DEFINITIONS), DRAFT202012)
    name: str = found.id() or ""
    empty: referencing.Registry[Any] = referencing.Registry()
    return empty.with_resources([(_DEFINITIONS, found), (name, found)]).crawl()


@cache
def _schema(release: str, file: str) -> Any:
    folder = resources.files("kubernetes_validate") / "kubernetes-json-schema"
    wanted = re.compile(rf"v{re.escape(release)}\.\d+-local-strict")
    (home,) = (path for path in folder.iterdir() if wanted.fullmatch(path.name))
    return msgspec.json.decode((home / file).read_bytes())
