"""The command as a whole: help, exit codes, and how it ends when it cannot go on."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from service.cli import list as listing
from tests.cli.conftest import Run
from tests.cli.world import COMMAND

COMMANDS = ("serve", "score", "validate", "export", "list", "key", "settings")


def test_version_is_that_of_the_distribution(run: Run) -> None:
    from importlib.metadata import version

    assert run("--version") == (0, f"gradekeeper {version('gradekeeper')}\n", "")


def test_help_names_every_command_and_exit_code(run: Run) -> None:
    code, out, _ = run("--help")
    assert code == 0
    for name in COMMANDS:
        assert f"\n    {name} " in out
    for number in (0, 1, 2, 3, 130):
        assert f"\n  {number} " in out
    assert "143 by SIGTERM" in out


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_every_command_documents_its_exit_codes(name: str, run: Run) -> None:
    code, out, _ = run(name, "--help")
    assert code == 0
    assert "exit codes:\n  0 " in out
    assert "\n  2 " in out


@pytest.mark.parametrize("arguments", [(), ("sing",), ("list", "--loud"), ("key",), ("score", "x")])
def test_unusable_arguments_exit_with_2_and_the_usage(arguments: tuple[str, ...], run: Run) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("usage: gradekeeper")


def test_an_interrupted_command_exits_with_130(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: Any) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(listing, "run", interrupted)
    assert run("list") == (130, "", "")


@pytest.mark.integration
def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    script = f"{COMMAND} settings --markdown | head -c 1 >/dev/null; echo ${{PIPESTATUS[0]}}"
    ran = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert (ran.stdout, ran.stderr) == ("0\n", "")


def test_a_closed_pipe_ends_the_command_quietly(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(_: Any) -> int:
        raise BrokenPipeError

    turned: list[int] = []
    monkeypatch.setattr(listing, "run", closed)
    monkeypatch.setattr("os.dup2", lambda _, target: turned.append(target))
    monkeypatch.setattr(sys.stdout, "fileno", lambda: 1, raising=False)
    assert run("list").code == 0
    assert turned == [1]


def test_asking_for_the_version_imports_nothing_heavy() -> None:
    script = (
        "import sys\nfrom service.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'litestar', 'uvicorn', 'httpx', 'openai', 'pyarrow', 'asyncio', 'rapidfuzz'}\n"
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stderr) == (0, "")
