"""Versioned, immutable grader definitions: name@version → definition, digest, labels.

A definitions directory holds one folder a grader, with ``1.json``, ``2.json`` … exactly as pasted
into a job, and optionally ``examples.jsonl``, ``labels.json`` (``{"label": version}``) and
``README.md``; a folder with ``src/grader.json`` and no version is a draft, which is not served.
Versions are integers from 1 without gaps. A ``definitions.lock`` beside the folders pins the digest
of every version: a changed line means that somebody edited what must never change.

A `Registry` never changes; loading gives a new one, or every reason why not.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from graders.building import Options
from graders.engine import CompiledGrader, compile_grader
from graders.errors import (
    DefinitionError,
    Finding,
    GraderError,
    UnknownGraderError,
    UnknownVersionError,
)
from graders.sample import JsonValue
from graders.wording import escape, placed

BUNDLED = Path(__file__).parent / "definitions"
LOCK = "definitions.lock"
EXAMPLES = "examples.jsonl"
DRAFT = "src/grader.json"  # what the next version is assembled from
LATEST = "latest"

NAME = re.compile(r"[a-z0-9]+(?:[-_.][a-z0-9]+)*\Z")
_VERSION_FILE = re.compile(r"([1-9][0-9]*)\.json\Z")
_LABEL = re.compile(r"[a-z][a-z0-9._-]*\Z")
_MAX_NAME_CHARS = 100
_LOCK_LINE = re.compile(r"(\S+@[1-9][0-9]*) (sha256:[0-9a-f]{64})\Z")
_UNREADABLE = (OSError, RecursionError, UnicodeDecodeError, msgspec.DecodeError)


class Definition(msgspec.Struct, frozen=True, kw_only=True):
    """One immutable version of a grader.

    Attributes:
        name: Name in the registry; the folder's name.
        version: From 1.
        document: The stored JSON as posted, byte for byte.
        grader: The same, ready to grade.
        description: First paragraph of the folder's README, one line.
        folder: Where its examples are; None for one that was published.
    """

    name: str
    version: int
    document: bytes
    grader: CompiledGrader
    description: str = ""
    folder: Path | None = None

    @property
    def digest(self) -> str:
        """Content address of the definition."""
        return self.grader.digest

    @property
    def signature(self) -> str:
        """How this definition makes grades, without the judges that answer (spec §9.12)."""
        return f"{self.name}@{self.version}|{self.grader.signature}"

    def examples(self) -> list[dict[str, Any]]:
        """Return this version's examples: ``item``, ``model_sample`` or ``sample``, ``reward``."""
        if self.folder is None or not (self.folder / EXAMPLES).exists():
            return []
        found = _decode_lines((self.folder / EXAMPLES).read_bytes())
        return [example for example in found if example.get("since", 1) <= self.version]


class BrokenDefinitionsError(GraderError):
    """Definitions that cannot be served.

    Attributes:
        findings: File → what is wrong in it.
    """

    def __init__(self, findings: Mapping[str, Iterable[Finding]]) -> None:
        """Keep the findings; the message lists them line by line."""
        self.findings = {file: tuple(found) for file, found in findings.items()}
        lines = [
            f"{placed(file, finding.pointer)}: {finding.message}"
            for file, found in self.findings.items()
            for finding in found
            if finding.severity == "error"
        ]
        super().__init__("\n".join(lines))


class Registry:
    """The definitions of one moment; look-ups only."""

    def __init__(
        self,
        definitions: Iterable[Definition] = (),
        labels: Mapping[str, Mapping[str, int]] | None = None,
    ) -> None:
        """Index ``definitions``, whose versions must be contiguous; use `load`."""
        self._versions: dict[str, list[Definition]] = {}
        for definition in sorted(definitions, key=lambda d: (d.name, d.version)):
            self._versions.setdefault(definition.name, []).append(definition)
        self._labels = {name: dict(marks) for name, marks in (labels or {}).items()}
        self._index = {
            (name, key): definition
            for name, versions in self._versions.items()
            for definition in versions
            for key in self._keys(definition, versions[-1])
        }

    def _keys(self, definition: Definition, last: Definition) -> list[str]:
        labels = self._labels.get(definition.name, {})
        keys = [str(definition.version)]
        keys += [label for label, version in labels.items() if version == definition.version]
        return [*keys, LATEST] if definition is last else keys

    def __len__(self) -> int:
        """Return the number of versions."""
        return sum(len(versions) for versions in self._versions.values())

    def get(self, name: str, version: str = LATEST) -> Definition:
        """Return a definition by integer version, ``latest`` or label.

        Raises:
            UnknownGraderError: No definition has this name.
            UnknownVersionError: No version of it has this number or label.
        """
        definition = self._index.get((name, version))
        if definition is not None:
            return definition
        if name not in self._versions:
            raise UnknownGraderError(name, self._versions)
        known = [key for (grader, key) in self._index if grader == name]
        raise UnknownVersionError(name, version, known)

    def names(self) -> list[str]:
        """Return the names, sorted."""
        return list(self._versions)

    def versions(self, name: str) -> list[Definition]:
        """Return the versions of a grader, oldest first.

        Raises:
            UnknownGraderError: No definition has this name.
        """
        if name not in self._versions:
            raise UnknownGraderError(name, self._versions)
        return list(self._versions[name])

    def labels(self, name: str) -> dict[str, int]:
        """Return label → version of a grader; ``latest`` is not listed."""
        return dict(self._labels.get(name, {}))

    def joined(
        self, definitions: Iterable[Definition], labels: Mapping[str, Mapping[str, int]]
    ) -> Registry:
        """Return a registry that has those of ``definitions`` too whose names are new here."""
        own = [definition for versions in self._versions.values() for definition in versions]
        more = [definition for definition in definitions if definition.name not in self._versions]
        return Registry([*own, *more], {**labels, **self._labels})


def define(name: str, version: int, document: bytes, options: Options) -> Definition:
    """Return the definition that ``document`` is.

    Raises:
        DefinitionError: With every finding.
    """
    try:
        grader = compile_grader(msgspec.json.decode(document), options, purpose="store")
    except (RecursionError, UnicodeDecodeError, msgspec.DecodeError) as error:
        raise DefinitionError([_finding(f"not JSON: {error}.", "invalid_json")]) from error
    repeated = repeated_keys(document)
    if repeated:
        raise DefinitionError(
            [
                _finding(f"the key '{key}' stands twice in one object.", "repeated_key")
                for key in repeated
            ]
        )
    return Definition(name=name, version=version, document=document, grader=grader)


def name_problem(name: str) -> str | None:
    """Return why ``name`` cannot be a grader's; None when it can."""
    if NAME.match(name) and len(name) <= _MAX_NAME_CHARS:
        return None
    return "a grader's name is lower-case letters, digits and '-', '_', '.'."


def label_problem(label: str) -> str | None:
    """Return why ``label`` cannot be one; None when it can."""
    if label != LATEST and _LABEL.match(label):
        return None
    return f"'{label}' cannot be a label."


def load(directories: Iterable[Path], options: Options) -> Registry:
    """Return the definitions of all ``directories``.

    Raises:
        BrokenDefinitionsError: With every finding of every file.
    """
    loader = _Loader(options)
    for directory in directories:
        loader.directory(directory)
    if loader.findings:
        raise BrokenDefinitionsError(loader.findings)
    return Registry(loader.definitions, loader.labels)


def lock_lines(definitions: Iterable[Definition]) -> str:
    """Return the text of a ``definitions.lock`` for ``definitions``."""
    return "".join(f"{d.name}@{d.version} {d.digest}\n" for d in definitions)


class _Loader:
    """Reads directories and collects what is wrong instead of stopping."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.definitions: list[Definition] = []
        self.labels: dict[str, dict[str, int]] = {}
        self.findings: dict[str, list[Finding]] = {}
        self._homes: dict[str, Path] = {}

    def _error(self, file: Path, message: str, code: str, pointer: str = "") -> None:
        found = self.findings.setdefault(str(file), [])
        found.append(Finding(pointer=pointer, message=message, code=code))

    def directory(self, directory: Path) -> None:
        """Load every grader below ``directory`` and compare with its lock, if it has one."""
        if not directory.is_dir():
            self._error(directory, "no such directory.", "missing_directory")
            return
        loaded: list[Definition] = []
        for folder in sorted(path for path in directory.iterdir() if path.is_dir()):
            if not folder.name.startswith((".", "_")):
                loaded += self._folder(folder)
        if (directory / LOCK).exists():
            self._compare(directory / LOCK, loaded)
        self.definitions += loaded

    def _folder(self, folder: Path) -> list[Definition]:
        name = folder.name
        problem = name_problem(name)
        if problem is not None:
            self._error(folder, problem, "invalid_name")
            return []
        if name in self._homes:
            self._error(folder, f"{name} is defined in {self._homes[name]} too.", "duplicate_name")
            return []
        self._homes[name] = folder
        numbers = sorted(
            int(match[1]) for path in folder.iterdir() if (match := _VERSION_FILE.match(path.name))
        )
        if not numbers and (folder / DRAFT).is_file():
            return []  # not released yet
        if numbers != list(range(1, len(numbers) + 1)) or not numbers:
            message = f"versions must be 1.json, 2.json … without gaps; found {numbers or 'none'}."
            self._error(folder, message, "version_gap")
            return []
        description = _description(folder)
        loaded = [self._version(folder, number, description) for number in numbers]
        has_draft = (folder / DRAFT).is_file()
        self._check_examples(folder / EXAMPLES, len(numbers) + has_draft)
        self._labelled(folder, len(numbers))
        return [definition for definition in loaded if definition is not None]

    def _version(self, folder: Path, number: int, description: str) -> Definition | None:
        file = folder / f"{number}.json"
        try:
            definition = define(folder.name, number, file.read_bytes(), self.options)
        except DefinitionError as error:
            self.findings.setdefault(str(file), []).extend(error.findings)
            return None
        except OSError as error:
            self._error(file, f"cannot be read: {error.strerror}.", "unreadable")
            return None
        return msgspec.structs.replace(definition, description=description, folder=folder)

    def _check_examples(self, file: Path, last: int) -> None:
        """Note what is no example, and one that is of no version up to ``last``."""
        try:
            examples = _decode_lines(file.read_bytes()) if file.exists() else []
        except _UNREADABLE as error:
            self._error(file, f"not one JSON object a line: {error}.", "invalid_examples")
            return
        for number, example in enumerate(examples, start=1):
            if not {"item", "reward"} <= example.keys() or not {"model_sample", "sample"} & set(
                example
            ):
                message = f"example {number} needs item, reward and model_sample or sample."
                self._error(file, message, "invalid_examples")
            if example.get("since", 1) not in range(1, last + 1):
                message = f"example {number}: since must be a version, 1 to {last}."
                self._error(file, message, "invalid_examples")

    def _labelled(self, folder: Path, last: int) -> None:
        file = folder / "labels.json"
        if not file.exists():
            return
        try:
            labels = msgspec.json.decode(file.read_bytes(), type=dict[str, int])
        except _UNREADABLE as error:
            message = f"expected an object from label to version: {error}."
            self._error(file, message, "invalid_labels")
            return
        for label, version in labels.items():
            problem = label_problem(label)
            if problem is not None:
                self._error(file, problem, "invalid_labels", f"/{escape(label)}")
            elif not 1 <= version <= last:
                self._error(file, f"there is no version {version}.", "invalid_labels", f"/{label}")
        self.labels[folder.name] = labels

    def _compare(self, lock: Path, loaded: list[Definition]) -> None:
        pinned: dict[str, str] = {}
        text = lock.read_bytes().decode(errors="replace")
        for number, line in enumerate(text.splitlines(), start=1):
            match = _LOCK_LINE.match(line)
            if match is None:
                self._error(lock, f"line {number} is not 'name@version sha256:…'.", "invalid_lock")
            elif match[1] in pinned:
                self._error(lock, f"line {number} pins {match[1]} again.", "invalid_lock")
            else:
                pinned[match[1]] = match[2]
        for definition in loaded:
            identity = f"{definition.name}@{definition.version}"
            digest = pinned.pop(identity, None)
            if digest is None:
                message = f"{identity} is not pinned; add '{identity} {definition.digest}'."
                self._error(lock, message, "unpinned")
            elif digest != definition.digest:
                message = (
                    f"{identity} was changed after its release (pinned {digest}, "
                    f"found {definition.digest}); versions are immutable, add a new one."
                )
                self._error(lock, message, "changed_version")
        # A grader with findings was not loaded, which does not mean that its files are gone.
        files = [Path(file) for file in self.findings]
        faulty = {file.name for file in files} | {file.parent.name for file in files}
        for identity in pinned:
            if identity.partition("@")[0] not in faulty:
                self._error(lock, f"{identity} is pinned, and its file is gone.", "missing_version")


def repeated_keys(document: bytes) -> list[str]:
    """Return the keys that stand twice in one object of ``document``; the last of them counts."""
    repeated: list[str] = []

    def note(pairs: list[tuple[str, JsonValue]]) -> None:
        counts = Counter(key for key, _ in pairs)
        repeated.extend(key for key, count in counts.items() if count > 1)

    json.loads(document, object_pairs_hook=note)
    return repeated


def _finding(message: str, code: str) -> Finding:
    return Finding(pointer="", message=message, code=code)


def _decode_lines(text: bytes) -> list[dict[str, Any]]:
    return msgspec.json.Decoder(dict[str, Any]).decode_lines(text)


def _description(folder: Path) -> str:
    """Return the first paragraph under the title of the folder's README as one line."""
    readme = folder / "README.md"
    if not readme.exists():
        return ""
    text = readme.read_bytes().decode(errors="replace")
    paragraphs = [part.strip() for part in text.split("\n\n")]
    prose = [part for part in paragraphs if part and not part.startswith("#")]
    return " ".join(prose[0].split()) if prose else ""
