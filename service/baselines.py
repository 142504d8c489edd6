"""Reward baselines: what the operator expects of a version, to measure drift against.

A JSON file holds mean and standard deviation by ``name@version``::

    {"gene-ranking@1": {"mean": 0.42, "std": 0.31}}

They are exported as they are. Drift itself is worked out by Prometheus, from counters of all
workers and replicas (deploy/prometheus): no process sees enough rewards to judge alone.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, TypeAlias

import msgspec

from service.metrics import Metrics

_VERSION = re.compile(r"[^@]+@[1-9][0-9]*\Z")


class BaselinesError(ValueError):
    """The file cannot be used; one sentence says why."""


class Baseline(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What rewards of a version are expected to look like.

    Attributes:
        mean: Mean reward.
        std: Standard deviation of the rewards behind it.
    """

    mean: float
    std: Annotated[float, msgspec.Meta(ge=0)]


Baselines: TypeAlias = dict[str, Baseline]


def load_baselines(file: str) -> Baselines:
    """Return the baselines in ``file`` by ``name@version``; none without a file.

    Raises:
        BaselinesError: It cannot be read, or is no such JSON.
    """
    if not file:
        return {}
    try:
        found = msgspec.json.decode(Path(file).read_bytes(), type=Baselines)
    except OSError as error:
        raise BaselinesError(f"the baselines file cannot be read: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BaselinesError(f"the baselines file is not valid: {error}") from error
    for key in found:
        if not _VERSION.match(key):
            raise BaselinesError(
                f"the baselines file is not valid: {key!r} is no name@version with a version number"
            )
    return found


def show_baselines(baselines: Baselines, metrics: Metrics) -> None:
    """Export ``baselines``."""
    for key, baseline in baselines.items():
        name, _, version = key.rpartition("@")
        metrics.reward_baseline_mean.labels(name, version).set(baseline.mean)
        metrics.reward_baseline_std.labels(name, version).set(baseline.std)
