"""The cluster that scenarios share, and the table of what they showed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster.processes import Cluster, cluster
from tests.cluster.story import Report
from tests.cluster.workload import judged_by_prompt
from tests.fakes_upstream import Upstream
from tests.judge.served import Background

_REPORTS = pytest.StashKey[list[Report]]()


@pytest.fixture(scope="session")
def background() -> Iterator[Background]:
    """Where the judge model lives."""
    found = Background()
    with found:
        yield found


@pytest.fixture(scope="session")
def judge(background: Background) -> Upstream:
    """The judge model, which scenarios script."""
    upstream = background.upstream
    upstream.keep = False
    upstream.script = judged_by_prompt
    return upstream


@pytest.fixture(scope="session")
def shared(judge: Upstream) -> Iterator[Cluster]:
    """A running cluster; a scenario leaves it as it found it."""
    # Patience of seconds instead of minutes, so that scenarios see the end of it.
    patience = {"JUDGE_DEADLINE_S": "4", "RECEIVE_TIMEOUT_S": "4", "SHUTDOWN_GRACE_S": "10"}
    with cluster(judge.url, settings=patience) as found:
        yield found


@pytest.fixture
def report(request: pytest.FixtureRequest) -> Report:
    """What the scenario found; shown at the end of the run."""
    found = Report(name=request.node.name.removeprefix("test_").replace("_", " "))
    request.config.stash.setdefault(_REPORTS, []).append(found)
    return found


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show what every scenario cost and how long recovery took."""
    reports = terminalreporter.config.stash.get(_REPORTS, [])
    if reports:
        terminalreporter.section("faults under load")
    for found in reports:
        terminalreporter.write_line(found.line())
