"""Statistics of groups of samples that answer one prompt, as group-relative training uses them.

Rows that are not ``ok`` have no part in them: a reward that nobody gave must not move a baseline.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence

import msgspec

from service.wire import GroupStatistics, RowResult

_EPSILON = 1e-6  # keeps groups of nearly equal rewards finite, as in GRPO implementations


def grouped(
    results: Sequence[RowResult], groups: Sequence[str | None]
) -> tuple[list[RowResult], dict[str, GroupStatistics] | None]:
    """Return the results with their place in their group, and the statistics of every group.

    Args:
        results: Of a batch, in order.
        groups: The group of every row; None for a row of none.

    Returns:
        The results, ``rank`` and ``advantage`` set on the ``ok`` rows of a group; and group →
        statistics in the order of first appearance, None when no row names a group.
    """
    members: dict[str, list[int]] = {}
    for index, group in enumerate(groups):
        if group is not None:
            members.setdefault(group, []).append(index)
    if not members:
        return list(results), None
    placed = list(results)
    found: dict[str, GroupStatistics] = {}
    for group, indexes in members.items():
        rewards = {index: results[index].reward for index in indexes if results[index].ok}
        statistics = statistics_of(list(rewards.values()), rows=len(indexes))
        found[group] = statistics
        ranks = ranks_of(list(rewards.values()))
        places = dict(zip(rewards, ranks, strict=True))
        for index in indexes:
            advantage = _advantage(rewards[index], statistics) if index in rewards else None
            placed[index] = msgspec.structs.replace(
                results[index], group=group, rank=places.get(index), advantage=advantage
            )
    return placed, found


def statistics_of(rewards: Sequence[float], *, rows: int) -> GroupStatistics:
    """Return the statistics of the rewards of one group.

    Args:
        rewards: Of the rows that are ``ok``.
        rows: Rows of the group, failed ones included.

    Returns:
        ``mean`` is None without a reward; ``std`` is that of a sample (n - 1), 0.0 for one reward
        and None without any.
    """
    count = len(rewards)
    if not count:
        return GroupStatistics(rows=rows, ok=0, mean=None, std=None)
    # Scaled, because squares and sums of finite rewards need not be finite.
    scale = max(map(abs, rewards)) or 1.0
    parts = [reward / scale for reward in rewards]
    mean = math.fsum(parts) / count
    spread = math.fsum((part - mean) ** 2 for part in parts)
    std = math.sqrt(spread / (count - 1)) if count > 1 else 0.0
    std = min(std * scale, sys.float_info.max)
    return GroupStatistics(rows=rows, ok=count, mean=mean * scale, std=std)


def ranks_of(rewards: Sequence[float]) -> list[int]:
    """Return the rank of every reward: 1 is the highest, equal rewards share the smaller number."""
    order = sorted(rewards, reverse=True)
    first: dict[float, int] = {}
    for rank, reward in enumerate(order, start=1):
        first.setdefault(reward, rank)
    return [first[reward] for reward in rewards]


def _advantage(reward: float, statistics: GroupStatistics) -> float:
    """Return (reward - mean) / (std + 1e-6), the advantage of GRPO; 0.0 where all are equal."""
    mean, std = statistics.mean, statistics.std
    if mean is None or not std:
        return 0.0
    return (reward / 2 - mean / 2) / (std / 2 + _EPSILON / 2)  # halves, so that nothing overflows
