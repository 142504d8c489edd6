"""One real server for all tests of the trainers' adapters."""

from collections.abc import Iterator

import pytest

from tests.trainers.servers import gradekeeper


@pytest.fixture(scope="session")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with gradekeeper(tmp_path_factory.mktemp("definitions")) as address:
        yield address
