"""The command, run in this process, with definitions of its own and a real sandbox."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from service.adapters import AdapterError, sandbox_config
from service.cli import main
from service.settings import Settings


class Ran(NamedTuple):
    """How a command ended and what it wrote."""

    code: int
    out: str
    err: str


Run = Callable[..., Ran]


@pytest.fixture
def definitions(tmp_path: Path) -> Path:
    """An empty directory of definitions."""
    directory = tmp_path / "definitions"
    directory.mkdir()
    return directory


@pytest.fixture
def environment(definitions: Path) -> Iterator[None]:
    """Name the definitions; put the environment back whatever the command does to it."""
    before = dict(os.environ)
    for name in before:
        if name.startswith("GRADEKEEPER_"):
            del os.environ[name]
    os.environ["GRADEKEEPER_DEFINITIONS"] = str(definitions)
    os.environ["GRADEKEEPER_BUNDLED_DEFINITIONS"] = "false"
    os.environ["GRADEKEEPER_SANDBOX_MIN_ISOLATION"] = "process"  # the graders are our own
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], environment: None) -> Run:
    """Run the command with these arguments."""

    def call(*arguments: object) -> Ran:
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as error:
            code = int(error.code or 0)
        return Ran(code, *capsys.readouterr())

    return call


@pytest.fixture
def sandbox() -> None:
    """Skip where no grader image is built."""
    try:
        sandbox_config(Settings())
    except AdapterError as error:
        pytest.skip(str(error))
