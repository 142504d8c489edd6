"""Building the interpreter that graders run in."""

import fcntl
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from graders.errors import DefinitionError
from graders.ports import SandboxRun
from service.sandbox import build_image
from service.sandbox.build_image import BuildError, build, interpreter, known_tags
from tests.sandbox import image
from tests.sandbox.conftest import Start

# What pip says when it reaches nobody; everything else is a fault of ours.
NO_NETWORK = re.compile(r"(?i)connection|name resolution|unreachable|proxy")
HALF = "def grade(sample, item):\n    return 0.5\n"


def _refuse(*_: Any, **__: Any) -> None:
    raise AssertionError("nothing may be run")


@pytest.fixture(scope="session")
def minimal(shared: Path) -> Path:
    """The minimal image, really built, once for all test processes."""
    into = shared / "minimal"
    with (shared / "minimal.building").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            build(image.TAG, "minimal", into)
        except BuildError as error:
            if not NO_NETWORK.search(str(error)):
                raise
            pytest.skip(f"NOT TESTED, no package index can be reached: {error}")
    return into


def test_an_unknown_tag_names_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=f"unknown image_tag 'alpha'; known: {image.TAG}"):
        build("alpha", "full", tmp_path / "image")


def test_without_a_compiler_it_names_the_debian_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    monkeypatch.setattr(build_image, "_run", _refuse)
    with pytest.raises(BuildError) as refused:
        build(image.TAG, "full", tmp_path / "image")
    assert "build-essential" in str(refused.value)
    assert "GRADEKEEPER_SANDBOX_PACKAGES=minimal" in str(refused.value)
    assert not (tmp_path / "image").exists()


def test_without_headers_it_names_the_debian_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.which", lambda _: "/usr/bin/cc")
    monkeypatch.setattr("sysconfig.get_path", lambda _: str(tmp_path))
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\necho {tmp_path}\n")
    python.chmod(0o755)
    with pytest.raises(BuildError, match="python3-dev"):
        build(image.TAG, "full", tmp_path / "image", python=str(python))


def test_a_failed_step_shows_the_end_of_its_output() -> None:
    with pytest.raises(BuildError, match=r"(?s)failed with status 3.*why it failed"):
        build_image._run(["sh", "-c", "echo why it failed >&2; exit 3"])


def test_a_directory_that_is_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("x")
    with pytest.raises(BuildError, match="is not empty and not a virtual environment"):
        build(image.TAG, "minimal", tmp_path)
    assert (tmp_path / "precious").read_text() == "x"


def test_the_command_prints_the_interpreter_or_what_is_wrong(
    minimal: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [image.TAG, "--packages", "minimal", "--into", str(minimal)]
    assert build_image.main(arguments) == 0
    assert capsys.readouterr().out.strip() == str(interpreter(minimal))
    assert build_image.main(["alpha", "--into", str(minimal)]) == 1
    assert "known: " in capsys.readouterr().err


def test_a_second_build_finds_the_first(minimal: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build_image, "_run", _refuse)
    assert build(image.TAG, "minimal", minimal) == interpreter(minimal)


def test_another_package_set_is_built_anew(
    minimal: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stamp = json.loads((minimal / ".gradekeeper-image.json").read_text())
    assert build_image.is_current(minimal, stamp)
    assert not build_image.is_current(minimal, stamp | {"packages": "full"})
    assert not build_image.is_current(tmp_path, stamp)
    assert known_tags() == (image.TAG,)


@pytest.mark.integration
async def test_with_minimal_packages_a_grader_that_needs_more_says_so(
    minimal: Path, started: Start
) -> None:
    sandbox = await started(images={image.TAG: str(interpreter(minimal))})

    async def outcome(source: str) -> tuple[str, str]:
        run = SandboxRun(source=source, image_tag=image.TAG, payload=b'{"sample":{},"item":{}}')
        result = await sandbox.run(run)
        return result.outcome, result.details

    assert await outcome(HALF) == ("value", "")
    assert await outcome(f"import rapidfuzz\n{HALF}") == ("value", "")
    kind, details = await outcome(f"import numpy\n{HALF}")
    assert kind == "exception"
    assert "No module named 'numpy'" in details
    assert "not in this installation's package set; the full image has it" in details
    kind, details = await outcome(f"import nothing_known\n{HALF}")
    assert "package set" not in details
    with pytest.raises(DefinitionError, match="known: "):
        await sandbox.run(SandboxRun(source=HALF, image_tag="alpha", payload=b"{}"))


def test_nothing_but_the_packages_is_installed(minimal: Path) -> None:
    question = "import importlib.metadata as m; print(*[d.name for d in m.distributions()])"
    listed = subprocess.run(
        [interpreter(minimal), "-c", question], capture_output=True, text=True, check=True
    )
    assert listed.stdout.split() == ["RapidFuzz"]


def test_nltk_data_that_is_missing_is_named(tmp_path: Path) -> None:
    missing = dict(build_image._add_nltk_data(image.TAG, tmp_path))
    assert {"punkt", "stopwords", "omw-1.4", "names"} <= set(missing)
    assert all("nltk_data" in why for name, why in missing.items() if name != "wordnet")
    if "wordnet" not in missing:
        assert (tmp_path / "nltk_data" / "corpora" / "wordnet" / "lexnames").exists()
