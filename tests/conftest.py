"""Settings that every test shares; fixtures live beside the tests that use them."""

import pytest
from hypothesis import settings

# Two shared cores make wall-clock deadlines flaky; pytest-timeout bounds each test instead.
settings.register_profile("gradekeeper", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("gradekeeper")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes minutes, so that no worker is left alone with it in the end."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
