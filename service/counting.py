"""Counts grades: on the way of a request only numbers are kept, which reach the series in bulk.

Adding one number to a histogram costs a tenth of a score. So numbers wait in lists, and `flush`, a
few times a second and before every scrape, sorts them into their buckets together.
"""

from __future__ import annotations

import math
import time
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Awaitable, Mapping, Sequence
from itertools import pairwise
from operator import mul
from typing import Protocol

import prometheus_client

from graders.grade import Grade
from graders.schema import TYPES
from service.metrics import Metrics

_AD_HOC = "(ad hoc)"
_MOST = 1e6  # what a reward counts at most, so that no sum of squares ends as infinity


def add_observations(
    histogram: prometheus_client.Histogram, counts: Sequence[float], total: float
) -> None:
    """Add many observations to the child of a histogram at once, which prometheus-client cannot.

    Args:
        histogram: The child: what ``labels`` gave.
        counts: Observations by bucket, not cumulated.
        total: Sum of the observations.
    """
    for bucket, count in zip(histogram._buckets, counts, strict=True):  # noqa: SLF001 - see above
        if count:
            bucket.inc(count)
    histogram._sum.inc(total)  # noqa: SLF001 - see above


class Observations:
    """Numbers that wait to be added to one histogram.

    Attributes:
        waiting: The numbers; append to it.
    """

    def __init__(self, child: prometheus_client.Histogram) -> None:
        """Add to ``child``."""
        self._child = child
        self._bounds: list[float] = child._upper_bounds  # noqa: SLF001 - no public way to ask
        self.waiting: list[float] = []

    def add(self, value: float, times: int) -> None:
        """Add ``value`` ``times`` times, at once."""
        self._child._buckets[bisect_left(self._bounds, value)].inc(times)  # noqa: SLF001 - see above
        self._child._sum.inc(value * times)  # noqa: SLF001 - see above

    def flush(self) -> list[float]:
        """Add the numbers, and return them in order."""
        found = sorted(self.waiting)
        self.waiting.clear()
        if found:
            places = [0, *(bisect_right(found, bound) for bound in self._bounds)]
            counts = [after - before for before, after in pairwise(places)]
            add_observations(self._child, counts, math.fsum(found))
        return found


class Batch(Protocol):
    """Rows that came together and are graded one after the other."""

    @property
    def pending(self) -> int:
        """Rows that still wait for their grade."""
        ...


class GradeCounter:
    """Counts the grades of one definition.

    Attributes:
        rewards: Rewards that can be trusted; appending one counts a grade that is ok.
        batches: JSON batches being graded.
    """

    def __init__(self, counts: Counts, grader: str, version: str, kind: str) -> None:
        """Take the series of this definition, of the type ``kind``."""
        metrics = counts.metrics
        self._failures = metrics.grade_failures
        self._outcomes: Mapping[str, prometheus_client.Counter] = {
            outcome: metrics.grades.labels(grader, version, outcome)
            for outcome in ("ok", "failed", "upstream")
        }
        self._observed = Observations(metrics.rewards.labels(grader, version))
        self._positive = metrics.reward_sum.labels(grader, version, "positive")
        self._negative = metrics.reward_sum.labels(grader, version, "negative")
        self._squares = metrics.reward_squares.labels(grader, version)
        self._seconds = counts.seconds(kind, "whole")
        self.rewards = self._observed.waiting
        self.batches: set[Batch] = set()

    def graded(self, grade: Grade) -> None:
        """Count one grade: ``ok``, ``failed``, or ``upstream`` when nobody could be asked."""
        if not grade.failures:
            self.rewards.append(grade.reward)
            return
        self._outcomes["upstream" if grade.upstream_failure else "failed"].inc()
        for failure in grade.failures:
            self._failures.labels(failure.code).inc()

    def took(self, seconds: float, rows: int = 1) -> None:
        """Note that grading ``rows`` samples by a pure definition took ``seconds`` together."""
        if rows == 1:
            self._seconds.waiting.append(seconds)
        elif rows:
            self._seconds.add(seconds / rows, rows)

    def unreadable(self) -> None:
        """Count a row that no grader can read."""
        self._outcomes["failed"].inc()
        self._failures.labels("invalid_row").inc()

    def flush(self) -> None:
        """Add what waits to the series."""
        if not self.rewards:
            return
        found = self._observed.flush()
        self._outcomes["ok"].inc(len(found))
        if found[0] < -_MOST or found[-1] > _MOST:
            found = [max(-_MOST, min(_MOST, reward)) for reward in found]
        negative = bisect_left(found, 0.0)
        self._positive.inc(math.fsum(found[negative:]))
        self._negative.inc(-math.fsum(found[:negative]))
        self._squares.inc(math.fsum(map(mul, found, found)))


class Counts:
    """Everything that waits to be added to the metrics of one process.

    Attributes:
        metrics: The series.
    """

    def __init__(self, metrics: Metrics) -> None:
        """Count into ``metrics``."""
        self.metrics = metrics
        self._graders: dict[tuple[str, str, str], GradeCounter] = {}
        self._seconds: dict[tuple[str, str], Observations] = {}
        self._under_way: Counter[str] = Counter()

    def of(self, grader: str, version: int, kind: str) -> GradeCounter:
        """Return what counts the grades of a definition of the type ``kind``."""
        return self._counter(grader, str(version), kind)

    def ad_hoc(self, kind: str) -> GradeCounter:
        """Return what counts the grades of graders of the type ``kind`` that came by request."""
        return self._counter(_AD_HOC, "", kind)

    def _counter(self, grader: str, version: str, kind: str) -> GradeCounter:
        key = (grader, version, kind)
        counter = self._graders.get(key)
        if counter is None:
            counter = self._graders[key] = GradeCounter(self, grader, version, kind)
        return counter

    def seconds(self, kind: str, phase: str) -> Observations:
        """Return what collects the seconds of one phase of graders of the type ``kind``."""
        key = (kind, phase)
        seconds = self._seconds.get(key)
        if seconds is None:
            child = self.metrics.grade_seconds.labels(kind, phase)
            seconds = self._seconds[key] = Observations(child)
        return seconds

    def watch(self) -> GradeWatch:
        """Return what the engine shows grades in the making to."""
        return GradeWatch(self, self._under_way)

    def flush(self) -> None:
        """Add everything that waits."""
        for counter in self._graders.values():
            counter.flush()
        for seconds in self._seconds.values():
            seconds.flush()
        pending = sum(
            batch.pending for counter in self._graders.values() for batch in counter.batches
        )
        self.metrics.rows_pending.set(pending)
        for kind, number in self._under_way.items():
            self.metrics.grades_in_flight.labels(kind).set(number)


class GradeWatch:
    """Measures grades that ask something outside: how long they take, and how many there are."""

    def __init__(self, counts: Counts, under_way: Counter[str]) -> None:
        """Add seconds to ``counts`` and keep the number of grades in ``under_way`` by type."""
        self._under_way = under_way
        for kind in TYPES:
            under_way[kind] = 0
        self._whole = {kind: counts.seconds(kind, "whole").waiting for kind in TYPES}
        self._part = {kind: counts.seconds(kind, "part").waiting for kind in TYPES}
        self._queue = counts.seconds("python", "queue").waiting

    async def whole(self, kind: str, grading: Awaitable[Grade]) -> Grade:
        """Measure one sample."""
        self._under_way[kind] += 1
        started = time.perf_counter()
        try:
            return await grading
        finally:
            self._under_way[kind] -= 1
            self._whole[kind].append(time.perf_counter() - started)

    async def part(self, kind: str, key: str, grading: Awaitable[Grade]) -> Grade:  # noqa: ARG002 - keys are no labels
        """Measure one part; of a Python grader also the time before it ran."""
        started = time.perf_counter()
        grade = await grading
        seconds = time.perf_counter() - started
        self._part[kind].append(seconds)
        ran = grade.diagnostics.get("", {}).get("execution_time") if kind == "python" else None
        if ran is not None:
            self._queue.append(max(0.0, seconds - ran))
        return grade
