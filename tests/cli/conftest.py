"""The command as most tests see it: run in this process, with definitions of its own."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from service.cli import main
from tests.cli.world import write_definitions


class Ran(NamedTuple):
    """How a command ended and what it wrote."""

    code: int
    out: str
    err: str


Run = Callable[..., Ran]


@pytest.fixture(autouse=True)
def _environment(definitions: Path) -> Iterator[None]:
    """Name the definitions; put the environment back whatever the command does to it."""
    before = dict(os.environ)
    for name in before:
        if name.startswith("GRADEKEEPER_"):
            del os.environ[name]
    os.environ["GRADEKEEPER_DEFINITIONS"] = str(definitions)
    os.environ["GRADEKEEPER_BUNDLED_DEFINITIONS"] = "false"
    os.environ["GRADEKEEPER_SANDBOX"] = "off"
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def definitions(tmp_path: Path) -> Path:
    """The definitions in force."""
    return write_definitions(tmp_path / "definitions")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command with these arguments."""

    def call(*arguments: object) -> Ran:
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as error:
            code = int(error.code or 0)
        return Ran(code, *capsys.readouterr())

    return call
