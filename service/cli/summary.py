"""What a file of scores says as a whole."""

from __future__ import annotations

import math
import shutil
import sys
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise

import msgspec

from service.cli.lines import Line
from service.cli.output import one_line

_BINS = 10
_EIGHTHS = " ▏▎▍▌▋▊▉█"


class ScoreSummary(msgspec.Struct, frozen=True, kw_only=True):
    """Counts and distribution; rewards are those of the rows that are ``ok``.

    Attributes:
        failed: Rows by the code of their failure.
        messages: What the first row with that code was told.
        unasked: Failed rows that ``--retry-failed`` would score again.
        pass_rate: Of the rows that are ``ok``; null when there is none.
        deciles: Least reward, the nine deciles (interpolated), greatest reward; empty without any.
        replies: Replies of judges and embedders behind the rewards, those from a cache included.
        tokens: Their tokens.
        paid_usd: Dollars that this run paid; null when it asked nobody.
        histogram: ``[from, to, rows]``; the last bin includes its end, and equal ends mean a value.
    """

    rows: int
    ok: int
    failed: dict[str, int]
    messages: dict[str, str]
    unasked: int
    passed: int
    pass_rate: float | None
    mean: float | None
    deciles: list[float]
    replies: int
    tokens: int
    paid_usd: float | None
    histogram: list[tuple[float, float, int]]


def summarize(lines: Iterable[Line], *, paid_usd: float | None = None) -> ScoreSummary:
    """Return the summary of ``lines``, which hold no cost themselves."""
    rewards = array("d")
    failed: Counter[str] = Counter()
    messages: dict[str, str] = {}
    unasked = passed = replies = tokens = 0
    for line in lines:
        if line.usage:
            replies += sum(map(_is_reply, line.signature.split("|")))
            tokens += sum(usage.total_tokens for usage in line.usage.values())
        if line.ok:
            rewards.append(line.reward)
            passed += line.passed
        else:
            failed[line.error.code if line.error else "unknown"] += 1
            if line.error:
                messages.setdefault(line.error.code, line.error.message)
            unasked += line.is_open
    ordered = sorted(rewards)
    ok = len(ordered)
    return ScoreSummary(
        rows=ok + failed.total(),
        ok=ok,
        failed=dict(failed.most_common()),
        messages=messages,
        unasked=unasked,
        passed=passed,
        pass_rate=passed / ok if ok else None,
        mean=_mean(ordered) if ok else None,
        deciles=[_quantile(ordered, tenth / 10) for tenth in range(11)] if ok else [],
        replies=replies,
        tokens=tokens,
        paid_usd=paid_usd,
        histogram=_histogram(ordered),
    )


def _is_reply(part: str) -> bool:
    """Return whether this part of a signature is the reply of a model."""
    return part.startswith(("judge:", "embedding:"))


def _quantile(ordered: Sequence[float], share: float) -> float:
    position = share * (len(ordered) - 1)
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    share_above = position - below
    if ordered[below] == ordered[above]:
        return ordered[below]
    return ordered[below] * (1 - share_above) + ordered[above] * share_above


def _mean(ordered: Sequence[float]) -> float:
    try:
        return math.fsum(ordered) / len(ordered)
    except OverflowError:
        return math.fsum(value / len(ordered) for value in ordered)


def _histogram(ordered: Sequence[float]) -> list[tuple[float, float, int]]:
    """Return a bar a value where there are few values, else ten equal bins."""
    values = Counter(ordered)
    if len(values) <= _BINS:
        return [(value, value, rows) for value, rows in values.items()]
    low, high = ordered[0], ordered[-1]
    if low >= 0.0 and high <= 1.0:
        low, high = 0.0, 1.0
    edges = [low * (1 - step / _BINS) + high * step / _BINS for step in range(_BINS)] + [high]
    half = high / 2 - low / 2  # the whole may be beyond the largest float
    counts = [0] * _BINS
    for value, rows in values.items():
        step = math.floor((value / 2 - low / 2) / half * _BINS)
        counts[min(step, _BINS - 1)] += rows
    return [(start, end, rows) for (start, end), rows in zip(pairwise(edges), counts, strict=True)]


def render(summary: ScoreSummary) -> list[str]:
    """Return the lines that show ``summary`` in a terminal."""
    codes = ", ".join(f"{code} {rows}" for code, rows in summary.failed.items())
    lines = [
        f"rows     {summary.rows}",
        f"ok       {summary.ok}",
        f"failed   {summary.rows - summary.ok}{f'  ({codes})' if codes else ''}",
    ]
    if summary.unasked:
        lines.append(f"         {summary.unasked} of them may work with --retry-failed")
    lines += [
        f"         {code}: {one_line(summary.messages[code])}"
        for code in summary.failed
        if code in summary.messages
    ]
    if summary.replies:
        paid = "" if summary.paid_usd is None else f", ${summary.paid_usd:.4f} paid by this run"
        lines.append(f"judges   {summary.replies} replies, {summary.tokens} tokens{paid}")
    if summary.mean is None or summary.pass_rate is None:
        return lines
    deciles = " ".join(f"{value:.4g}" for value in summary.deciles)
    if summary.ok > 1 and summary.deciles[0] == summary.deciles[-1] == 0.0:
        # The Python graders that ship give an item without its fields 0.0, not a failure.
        lines.append("         every reward is 0: do the items have the fields the grader reads?")
    return [
        *lines,
        f"passed   {summary.passed}  ({summary.pass_rate:.1%} of the ok rows)",
        f"mean     {summary.mean:.6g}",
        f"deciles  {deciles}",
        "",
        *_bars(summary.histogram),
    ]


def _bars(histogram: list[tuple[float, float, int]]) -> list[str]:
    labels = [
        f"{start:.4g}" if start == end else f"{start:.4g} to {end:.4g}"
        for start, end, _ in histogram
    ]
    counts = [str(rows) for *_, rows in histogram]
    label_width, count_width = max(map(len, labels)), max(map(len, counts))
    room = max(10, shutil.get_terminal_size().columns - label_width - count_width - 4)
    most = max(rows for *_, rows in histogram)
    return [
        f"{label:>{label_width}} {_bar(rows / most, room)} {count:>{count_width}}"
        for label, count, (*_, rows) in zip(labels, counts, histogram, strict=True)
    ]


def _bar(share: float, room: int) -> str:
    """Return a bar of ``share`` of the room; anything above zero is visible."""
    eighths = max(round(share * room * 8), 1 if share else 0)
    if _can_write(_EIGHTHS):
        bar = "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()
    else:
        bar = "#" * math.ceil(eighths / 8)
    return bar.ljust(room)


def _can_write(text: str) -> bool:
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True
