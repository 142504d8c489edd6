"""Tests that run other people's code; only ``make compat`` collects them.

Those of clients run where all tests do, and start each client in an environment of its own; those
in ``trainers`` run inside the environment of that name.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from graders.errors import JudgeUnavailableError
from tests.api.world import JUDGED, Live, serving, settings, write_definitions
from tests.compat.environments import UnusableError, clean_environ, environment
from tests.dialects.pages import capital
from tests.dialects.world import ports

collect_ignore_glob = [] if os.environ.get("COMPAT") else ["test_*.py", "trainers"]

CLIENTS = Path(__file__).parent / "clients"
CLIENT_S = 100


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Fail what is skipped: code that did not run has not been found compatible."""
    report = yield
    if report.skipped:
        report.outcome = "failed"
    return report


@pytest.fixture(scope="session")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """The service with ``capital``, ``strict`` (always fails) and ``judged`` (judge is down)."""
    fields: dict[str, list[Any]] = capital()
    fields["strict"] = [{**fields["capital"][0], "reference": "{{item.nowhere}}"}]
    fields["judged"] = [{**JUDGED, "input": [{"role": "user", "content": "Grade it"}]}]
    directory = write_definitions(tmp_path_factory.mktemp("compat"), fields)
    down = JudgeUnavailableError("the judge is down", retry_after_s=1.0)
    with serving(settings(directory), ports(judge=lambda _: down)) as server:
        yield server


@pytest.fixture(scope="session")
def run_client() -> Callable[..., Any]:
    """Run one of `CLIENTS` in its environment: JSON in, JSON out."""

    def run(name: str, script: str, given: Any, **environ: str) -> Any:
        try:
            folder = environment(name)
        except UnusableError as error:
            pytest.fail(str(error), pytrace=False)
        done = subprocess.run(
            [str(folder / "bin" / "python"), str(CLIENTS / script)],
            input=json.dumps(given),
            capture_output=True,
            text=True,
            timeout=CLIENT_S,
            check=False,
            cwd=folder,
            env={**clean_environ(), **environ},
        )
        assert done.returncode == 0, done.stderr[-4000:]
        return json.loads(done.stdout.splitlines()[-1])

    return run
