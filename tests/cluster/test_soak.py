"""A short form of ``make soak``."""

from __future__ import annotations

import pytest

from tests.cluster.soak import soak, table

pytestmark = [pytest.mark.system, pytest.mark.serial]


def test_every_reward_of_a_mixed_load_is_right() -> None:
    found = soak(seconds=5)
    assert found.faults == {}
    assert found.right > 100
    assert found.counted == found.rows
    assert all(use.peak_mib > 0 for use in found.usage.values())
    assert "anything else: nothing" in table(found)
