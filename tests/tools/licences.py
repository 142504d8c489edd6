"""Refuse a runtime dependency whose licence nobody has looked at.

Prints the licence that each pinned distribution declares and fails on one that is not on the
list. It reads installed metadata only; it does not read licence texts or judge how a library is
used. To allow another licence, read it, then add its SPDX identifier here.

    python -m tests.tools.licences requirements/serve.txt
"""

import sys
from importlib.metadata import PackageMetadata, PackageNotFoundError, metadata
from pathlib import Path

from tests.tools.locks import read_pins

ALLOWED = {
    "0BSD",
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "MIT",
    "MPL-2.0",  # copyleft by file: fine for libraries that we do not change
    "PSF-2.0",
    "Unlicense",
    "Zlib",
}

# What metadata older than SPDX expressions says for the same licences.
SPELLINGS = {
    "Apache 2": "Apache-2.0",
    "Apache 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD License": "BSD-3-Clause",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
}


def declared_licence(about: PackageMetadata) -> str:
    """Return the SPDX expression that ``about`` declares, or its own words, or an empty text.

    The oldest fields are asked last: ``License-Expression``, the first line of ``License`` (some
    put the whole text there), then all licence classifiers together.
    """
    values: list[str] = [*about.get_all("License-Expression", []), *about.get_all("License", [])]
    for value in values:
        if first_line := value.strip().partition("\n")[0].strip():
            return SPELLINGS.get(first_line, first_line)
    classifiers = [c for c in about.get_all("Classifier", []) if c.startswith("License ::")]
    names = [classifier.rpartition(" :: ")[2] for classifier in classifiers]
    return " AND ".join(SPELLINGS.get(name, name) for name in names)


def is_allowed(expression: str) -> bool:
    """Return whether the licences of ``expression`` are on the list.

    Every side of ``AND`` must be and one side of ``OR`` suffices. Anything longer, such as
    parentheses or ``WITH``, is for a person to read.
    """
    choices = [choice.split(" AND ") for choice in expression.split(" OR ")]
    return any(all(name in ALLOWED for name in choice) for choice in choices)


def main(paths: list[str]) -> int:
    """Print a table of the locks at ``paths``; return 1 if a licence is missing or not allowed."""
    refused = 0
    pins = [pin for path in paths for pin in read_pins(Path(path).read_text("utf-8"))]
    for pin in (pin for pin in pins if pin.is_for_here):
        try:
            licence = declared_licence(metadata(pin.name))
        except PackageNotFoundError:
            licence = "(not installed)"
        allowed = is_allowed(licence)
        refused += not allowed
        mark = "  " if allowed else "✗ "
        print(f"{mark}{pin!s:32}{licence or '(none)'}")
    if refused:
        print(f"{refused} refused: tests/tools/licences.py holds the list", file=sys.stderr)
    return int(refused > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
