"""Build the interpreter that graders run in.

``python -m service.sandbox.build_image TAG --into DIR``.

A virtual environment of its own, from hash-locked requirements that lie beside this module, with
compiled bytecode (a container's root file system is read-only) and what there is of the NLTK data.
A second run finds its stamp and returns at once.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TextIO

if TYPE_CHECKING:
    from collections.abc import Iterator

Packages = Literal["full", "minimal"]

IMAGES = Path(__file__).parent / "images"
_STAMP = ".gradekeeper-image.json"
_REQUIREMENT = re.compile(r"(?m)^(?=[A-Za-z0-9])")
_NOT_PACKAGED = (
    "no package of PyPI or Debian was found to hold it; put it into the image's nltk_data yourself"
)
_WORDNET_FILES = ("cntlist.rev", "index.sense")


class BuildError(Exception):
    """The image cannot be built here; the text says what to install."""


def known_tags() -> tuple[str, ...]:
    """Return the image tags that can be built."""
    return tuple(sorted(path.name for path in IMAGES.iterdir() if (path / "image.json").is_file()))


def interpreter(directory: Path) -> Path:
    """Return where the interpreter of the image in ``directory`` is."""
    return directory / "bin" / "python"


def build(
    tag: str,
    packages: Packages,
    into: Path,
    *,
    python: str = sys.executable,
    log: TextIO = sys.stderr,
) -> Path:
    """Build image ``tag`` in ``into``, unless it is there already, and return its interpreter.

    Raises:
        BuildError: Unknown tag, no compiler, or an installation step failed.
    """
    if tag not in known_tags():
        msg = f"unknown image_tag {tag!r}; known: {', '.join(known_tags())}"
        raise BuildError(msg)
    into = into.absolute()
    into.parent.mkdir(parents=True, exist_ok=True)
    stamp = _stamp(tag, packages, python)
    with Path(f"{into}.lock").open("w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if is_current(into, stamp):
            return interpreter(into)
        _clear(into)
        if packages == "full":
            _require_compiler(python)
        print(f"building grader image {tag} ({packages}) in {into}", file=log)
        _install(tag, packages, into, python)
        missing = _add_nltk_data(tag, into) if packages == "full" else ()
        for name, why in missing:
            print(f"  NLTK data {name}: not in this image ({why})", file=log)
        # Some packages ship templates and test files that are not valid Python: its exit status
        # says nothing.
        subprocess.run(
            [interpreter(into), "-m", "compileall", "-q", "-j", "0", into / "lib"], check=False
        )
        (into / _STAMP).write_text(json.dumps(stamp, indent=2) + "\n")
    return interpreter(into)


def is_complete(directory: Path) -> bool:
    """Return whether a build of an image in ``directory`` has ended well."""
    return (directory / _STAMP).exists() and interpreter(directory).exists()


def is_current(into: Path, stamp: dict[str, str]) -> bool:
    """Return whether ``into`` holds exactly the image that ``stamp`` describes."""
    try:
        return bool(json.loads((into / _STAMP).read_text()) == stamp)
    except (OSError, ValueError):
        return False


def _stamp(tag: str, packages: Packages, python: str) -> dict[str, str]:
    digest = hashlib.sha256()
    for path in sorted((IMAGES / tag).iterdir()):
        digest.update(path.read_bytes())
    # `python` may be a virtual environment's: what counts is what that one was made from.
    question = "import sys; print(sys.base_prefix, sys.version)"
    version = subprocess.run(
        [python, "-c", question], check=True, capture_output=True, text=True
    ).stdout.strip()
    return {"image_tag": tag, "packages": packages, "inputs": digest.hexdigest(), "python": version}


def _clear(into: Path) -> None:
    if not into.exists():
        return
    if any(into.iterdir()) and not (into / "pyvenv.cfg").exists():
        msg = f"{into} is not empty and not a virtual environment; name another directory"
        raise BuildError(msg)
    shutil.rmtree(into)


def _require_compiler(python: str) -> None:
    compiler = next((name for name in ("cc", "gcc", "clang") if shutil.which(name)), None)
    if compiler is None:
        msg = (
            "the full package set builds rouge-score and scikit-bio from source, and there is"
            " no C compiler here:"
            " install one (Debian: build-essential and python3-dev), or use the minimal set"
            " (GRADEKEEPER_SANDBOX_PACKAGES=minimal: standard library and rapidfuzz)"
        )
        raise BuildError(msg)
    question = "import sysconfig; print(sysconfig.get_path('include'))"
    found = subprocess.run([python, "-c", question], check=True, capture_output=True, text=True)
    if (
        not (Path(found.stdout.strip()) / "Python.h").exists()
        and not (Path(sysconfig.get_path("include")) / "Python.h").exists()
    ):
        msg = (
            "the full package set builds scikit-bio from source, and Python.h is missing:"
            " install the headers (Debian: python3-dev), or use the minimal set"
            " (GRADEKEEPER_SANDBOX_PACKAGES=minimal)"
        )
        raise BuildError(msg)


def _install(tag: str, packages: Packages, into: Path, python: str) -> None:
    _run([python, "-m", "venv", str(into)])
    image = IMAGES / tag
    facts = json.loads((image / "image.json").read_text())
    wheels, sources = _split((image / f"{packages}.txt").read_text(), facts["source_only"])
    pip = [str(interpreter(into)), "-m", "pip", "--disable-pip-version-check", "--quiet"]
    install = [*pip, "install", "--require-hashes", "--no-deps", "--no-compile"]
    listed = into / "requirements.txt"
    listed.write_text(wheels)
    _run([*install, "--only-binary", ":all:", "-r", str(listed)])
    if sources:
        _run([*install, "--only-binary", ":all:", "-r", str(image / "build.txt")])
        listed.write_text(sources)
        _run([*install, "--no-build-isolation", "-r", str(listed)])
    listed.unlink()
    _run([*pip, "uninstall", "--yes", *facts["build_only"]])


def _split(requirements: str, source_only: list[str]) -> tuple[str, str]:
    """Return the requirements that come as wheels, and those that are built."""
    wheels: list[str] = []
    sources: list[str] = []
    for part in filter(None, _REQUIREMENT.split(requirements)):
        (sources if part.partition("==")[0] in source_only else wheels).append(part)
    return "".join(wheels), "".join(sources)


def _run(command: list[str]) -> None:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        end = "\n".join((done.stdout + done.stderr).strip().splitlines()[-20:])
        msg = f"`{' '.join(command[1:6])} …` failed with status {done.returncode}:\n{end}"
        raise BuildError(msg)


def _add_nltk_data(tag: str, into: Path) -> tuple[tuple[str, str], ...]:
    """Put the NLTK data that packages provide into the image; return what is missing, and why."""
    facts = json.loads((IMAGES / tag / "image.json").read_text())["nltk_data"]
    missing = list(_missing(facts))
    wordnet = Path(facts["wordnet"]["from"])
    if all((wordnet / name).exists() for name in _WORDNET_FILES):
        target = into / "nltk_data" / "corpora" / "wordnet"
        target.mkdir(parents=True)
        for pattern in ("index.*", "data.*", "*.exc", "cntlist.rev"):
            for path in wordnet.glob(pattern):
                shutil.copy(path, target / path.name)
        # Debian leaves this one out; it numbers the files that WordNet was edited in.
        shutil.copy(IMAGES / tag / "lexnames", target / "lexnames")
    else:
        missing.append(
            (
                "wordnet",
                f"install Debian's {', '.join(facts['wordnet']['debian_packages'])}",
            )
        )
    return tuple(missing)


def _missing(facts: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for name, source in facts.items():
        if source is None:
            yield name, _NOT_PACKAGED


def main(arguments: list[str] | None = None) -> int:
    """Build what the command line names; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m service.sandbox.build_image", description=__doc__
    )
    parser.add_argument("tag", help=f"image_tag to build: {', '.join(known_tags())}")
    parser.add_argument("--packages", choices=("full", "minimal"), default="full")
    parser.add_argument(
        "--into", type=Path, required=True, help="directory of the virtual environment"
    )
    parser.add_argument(
        "--python", default=sys.executable, help="interpreter to make it from (default: this one)"
    )
    options = parser.parse_args(arguments)
    try:
        print(build(options.tag, options.packages, options.into, python=options.python))
    except BuildError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
