"""What the judge adapter counts."""

from __future__ import annotations

from graders.grade import TokenUsage
from service.judge.stats import OTHER_MODEL, JudgeStats

USAGE = TokenUsage(prompt_tokens=3, completion_tokens=2, cached_tokens=1)


def test_models_beyond_the_first_hundred_share_one_name() -> None:
    stats = JudgeStats()
    for number in range(150):
        stats.paid(("trainer", "gene@1"), f"model-{number}", USAGE, 10)
    stats.paid(("trainer", "gene@1"), "model-7", USAGE, 10)
    assert len(stats.models) == 100
    assert stats.tokens["model-7", "prompt"] == 6
    assert stats.tokens[OTHER_MODEL, "completion"] == 100
    assert stats.nanodollars["trainer", "gene@1", OTHER_MODEL] == 500
    assert len({model for model, _ in stats.tokens}) == 101
