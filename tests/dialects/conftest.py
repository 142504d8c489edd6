"""The service with the graders of these tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.dialects.world import definitions


@pytest.fixture(scope="session")
def graders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of definitions; not to be changed."""
    return definitions(tmp_path_factory.mktemp("graders"))
