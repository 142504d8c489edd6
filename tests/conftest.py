"""Settings that every test shares; fixtures live beside the tests that use them."""

from hypothesis import settings

# Two shared cores make wall-clock deadlines flaky; pytest-timeout bounds each test instead.
settings.register_profile("gradekeeper", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("gradekeeper")
