"""Definitions, ports and rows for tests of what is counted and traced."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from graders import registry
from graders.building import Options
from graders.ports import JudgeReply, Ports
from graders.registry import Definition
from graders.sample import Sample
from tests.api.world import write_definitions
from tests.fakes import FakeJudge, verdict

Row = tuple[dict[str, Any], Sample]


@pytest.fixture(scope="session")
def definitions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with every kind of grader; not to be changed."""
    return write_definitions(tmp_path_factory.mktemp("definitions"))


@pytest.fixture
def world_of(definitions: Path) -> Callable[..., tuple[Definition, Ports, list[Row]]]:
    """Return a definition, ports that answer it (or hang), and three rows."""
    loaded = registry.load([definitions], Options())

    async def hang() -> JudgeReply:
        await asyncio.Event().wait()
        raise AssertionError

    def make(name: str, *, hangs: bool = False) -> tuple[Definition, Ports, list[Row]]:
        judge = FakeJudge(lambda _: hang() if hangs else verdict(1.0))
        rows: list[Row] = [({"answer": "a", "question": "q"}, Sample("a")) for _ in range(3)]
        return loaded.get(name, "1"), Ports(judge=judge), rows

    return make
