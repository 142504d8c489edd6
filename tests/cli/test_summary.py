"""The summary of a file of scores."""

from __future__ import annotations

import io
import os
import shutil
import sys

import pytest

from graders.grade import TokenUsage
from service.cli.lines import Line
from service.cli.summary import render, summarize
from service.wire import RowError


def scored(*rewards: float, threshold: float = 0.5) -> list[Line]:
    return [
        Line(row=row, reward=reward, ok=True, passed=reward >= threshold, signature="s")
        for row, reward in enumerate(rewards)
    ]


def unscored(
    code: str | None, message: str = "m", *, retryable: bool = False, upstream: bool = False
) -> Line:
    error = None
    if code:
        error = RowError(code=code, message=message, retryable=retryable, upstream=upstream)
    return Line(row=0, reward=0.0, ok=False, passed=False, error=error, signature="s")


def test_counts_mean_and_pass_rate_are_those_of_the_rows_that_are_ok() -> None:
    failures = [
        unscored("a"),
        unscored("b", retryable=True),
        unscored("judge_unavailable", upstream=True),
        unscored("a"),
        unscored(None),
    ]
    summary = summarize([*scored(0.0, 1.0, 0.5), *failures])
    assert (summary.rows, summary.ok, summary.passed) == (8, 3, 2)
    assert summary.failed == {"a": 2, "b": 1, "judge_unavailable": 1, "unknown": 1}
    assert summary.unasked == 2
    assert (summary.mean, summary.pass_rate) == (0.5, 2 / 3)


def test_deciles_are_interpolated() -> None:
    assert summarize(scored(*range(11))).deciles == [float(tenth) for tenth in range(11)]
    assert summarize(scored(0.0, 1.0)).deciles == pytest.approx([n / 10 for n in range(11)])
    assert summarize(scored(0.3)).deciles == [0.3] * 11


def test_few_values_have_a_bar_each() -> None:
    assert summarize(scored(1.0, 0.0, 1.0)).histogram == [(0.0, 0.0, 1), (1.0, 1.0, 2)]


def test_many_values_between_0_and_1_fall_into_tenths() -> None:
    histogram = summarize(scored(*(n / 20 for n in range(21)))).histogram
    assert [rows for *_, rows in histogram] == [2] * 9 + [3]
    assert (histogram[0][0], histogram[-1][1]) == (0.0, 1.0)


@pytest.mark.parametrize("scale", [7.0, 1.7e308])
def test_other_values_fall_into_tenths_of_their_range(scale: float) -> None:
    rewards = [scale * (n / 10 - 1) for n in range(21)]
    summary = summarize(scored(*rewards))
    assert sum(rows for *_, rows in summary.histogram) == 21
    assert (summary.histogram[0][0], summary.histogram[-1][1]) == (-scale, scale)
    assert summary.mean == pytest.approx(0.0, abs=scale * 1e-12)
    assert summary.deciles[0] == -scale


def test_a_sum_beyond_the_largest_float_still_has_a_mean() -> None:
    assert summarize(scored(1.7e308, 1.7e308)).mean == 1.7e308


@pytest.mark.parametrize(
    ("rewards", "is_said"),
    [((0.0, 0.0), True), ((0.0, 1e-9), False), ((1.0, 1.0), False), ((0.0,), False)],
)
def test_rewards_that_are_all_nothing_raise_a_question(
    rewards: tuple[float, ...], is_said: bool
) -> None:
    text = "\n".join(render(summarize(scored(*rewards))))
    assert ("every reward is 0: do the items have the fields" in text) == is_said


def test_nothing_ok_leaves_the_distribution_out() -> None:
    summary = summarize([unscored("a")])
    assert (summary.mean, summary.pass_rate, summary.deciles) == (None, None, [])
    assert render(summary) == [
        *("rows     1", "ok       0", "failed   1  (a 1)"),
        "         a: m",
    ]


def test_bars_fill_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    size = os.terminal_size((40, 24))
    monkeypatch.setattr(shutil, "get_terminal_size", lambda *_, **__: size)  # pytest asks too
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="utf-8"))
    lines = render(summarize(scored(*[1.0] * 990, *[0.0] * 9, 0.25, threshold=0.2)))
    assert lines[3:6] == [
        "passed   991  (99.1% of the ok rows)",
        "mean     0.99025",
        "deciles  0 1 1 1 1 1 1 1 1 1 1",
    ]
    assert lines[7:] == [
        f"   0 {'▎'.ljust(29)}   9",
        f"0.25 {'▏'.ljust(29)}   1",
        f"   1 {'█' * 29} 990",
    ]


def test_a_terminal_without_blocks_gets_plain_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    size = os.terminal_size((20, 24))
    monkeypatch.setattr(shutil, "get_terminal_size", lambda *_, **__: size)  # pytest asks too
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    assert render(summarize(scored(0.0, 1.0, 1.0)))[-2:] == [
        f"0 {'#' * 7}        1",
        f"1 {'#' * 14} 2",
    ]


def test_rows_worth_another_try_are_pointed_out() -> None:
    lines = render(summarize([unscored("a", retryable=True), *scored(1.0)]))
    assert lines[3] == "         1 of them may work with --retry-failed"


def test_every_code_has_the_message_of_its_first_row() -> None:
    lines = [unscored("a", "one\n\x1b[2Jline"), unscored("b", "x" * 999), unscored("a", "two")]
    summary = summarize([*lines, unscored(None)])
    assert summary.messages == {"a": "one\n\x1b[2Jline", "b": "x" * 999}
    first, second = render(summary)[3:]
    assert first == "         a: one [2Jline"
    assert len(second) < 300


def judged(row: int, signature: str, tokens: int) -> Line:
    usage = {"m": TokenUsage(total_tokens=tokens)}
    return Line(row=row, reward=1.0, ok=True, passed=True, usage=usage, signature=signature)


@pytest.mark.parametrize(
    ("paid", "told"), [(0.00072, ", $0.0007 paid by this run"), (0.0, ", $0.0000 paid by this run")]
)
def test_judges_are_counted_where_any_was_asked(paid: float, told: str) -> None:
    lines = [
        judged(0, "s|judge:m:k:r", 120),
        judged(1, "s|judge:m:l:r|embedding:e:k|ensemble:m", 60),
    ]
    summary = summarize([*lines, *scored(1.0)], paid_usd=paid)
    assert (summary.replies, summary.tokens, summary.paid_usd) == (3, 180, paid)
    assert f"judges   3 replies, 180 tokens{told}" in render(summary)
    assert "judges   3 replies, 180 tokens" in render(summarize(lines))
    assert not any("judges" in line for line in render(summarize(scored(1.0))))
