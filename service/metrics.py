"""The catalogue of metrics: every series of the service is declared here, with help and unit.

With several workers the values live in files that all of them share (prometheus-client's
multiprocess mode, switched on by ``PROMETHEUS_MULTIPROC_DIR``, which ``serve`` sets), so that a
scrape of any worker shows all of them.
"""

from __future__ import annotations

import math
import os
from bisect import bisect_left
from collections import Counter as Tally
from collections.abc import Mapping, Sequence

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from graders.grade import Grade
from service.judge.stats import SECONDS_BUCKETS

MULTIPROCESS_DIR = "PROMETHEUS_MULTIPROC_DIR"

_LATENCY_BUCKETS = (
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
    120.0,
)


class Metrics:
    """Every series of one process.

    Label values are bounded: routes are templates, graders those of the registry, keys those
    configured.
    """

    def __init__(self, *, multiprocess_dir: str | None = None) -> None:
        """Declare the series in a registry of their own."""
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._multiprocess_dir = multiprocess_dir
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "gradekeeper_requests_total",
            "Requests answered.",
            ("method", "route", "status"),
            registry=self.registry,
        )
        self.request_seconds = Histogram(
            "gradekeeper_request_duration_seconds",
            "Seconds from the first byte of a request to the last of its answer.",
            ("route",),
            registry=self.registry,
            buckets=_LATENCY_BUCKETS,
        )
        self.in_flight = Gauge(
            "gradekeeper_requests_in_flight",
            "Requests being handled.",
            registry=self.registry,
            multiprocess_mode="livesum",
        )
        self.grades = Counter(
            "gradekeeper_grades_total",
            "Grades made, by outcome: ok, failed (the grader could not) or upstream (nobody could "
            "be asked).",
            ("grader", "version", "outcome"),
            registry=self.registry,
        )
        self.grade_failures = Counter(
            "gradekeeper_grade_failures_total",
            "Failures of graders and their parts, by code.",
            ("code",),
            registry=self.registry,
        )
        self.definitions = Gauge(
            "gradekeeper_definitions",
            "Definition versions being served.",
            registry=self.registry,
            multiprocess_mode="mostrecent",
        )
        self.reload_failed = Gauge(
            "gradekeeper_definitions_reload_failed",
            "1 when the last attempt to read the definitions again failed; the old ones are kept.",
            registry=self.registry,
            multiprocess_mode="max",
        )
        self.reloads = Counter(
            "gradekeeper_definitions_reloads_total",
            "Attempts to read the definitions again, by outcome.",
            ("outcome",),
            registry=self.registry,
        )

        self._declare_sandbox()
        self._declare_judge()
        self._declare_store()

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"gradekeeper_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(
            f"gradekeeper_{name}",
            text,
            labels,
            registry=self.registry,
            multiprocess_mode="livesum",
        )

    def _declare_sandbox(self) -> None:
        counter, gauge = self._counter, self._gauge
        self.sandbox_calls = counter(
            "sandbox_calls_total", "Calls of Python graders, by outcome.", "outcome"
        )
        self.sandbox_queue_seconds = counter(
            "sandbox_queue_seconds_total", "Seconds Python graders waited for a slot."
        )
        self.sandbox_execution_seconds = counter(
            "sandbox_execution_seconds_total", "Seconds Python graders ran."
        )
        self.sandbox_kills = counter(
            "sandbox_kills_total", "Processes of Python graders killed, by reason.", "reason"
        )
        self.sandbox_restarts = counter(
            "sandbox_zygote_restarts_total", "Zygotes that died and were replaced."
        )
        self.sandbox_running = gauge("sandbox_running", "Python graders running.")
        self.sandbox_waiting = gauge("sandbox_waiting", "Python graders waiting for a slot.")
        self.sandbox_tiers = gauge("sandbox_tiers", "Warm package sets.")
        self.sandbox_tier_bytes = gauge(
            "sandbox_tiers_memory_bytes", "Own resident memory of the warm package sets."
        )
        self.sandbox_level = gauge(
            "sandbox_level", "Workers whose sandbox reached this isolation level.", "level"
        )

    def _declare_judge(self) -> None:
        counter, gauge = self._counter, self._gauge
        self.judge_attempts = counter(
            "judge_attempts_total",
            "Requests to judge upstreams, by route and outcome.",
            "route",
            "outcome",
        )
        self.judge_retries = counter("judge_retries_total", "Repeated attempts, by route.", "route")
        self.judge_seconds = Histogram(
            "gradekeeper_judge_duration_seconds",
            "Seconds of successful attempts, by route.",
            ("route",),
            registry=self.registry,
            buckets=SECONDS_BUCKETS,
        )
        self.judge_tokens = counter(
            "judge_tokens_total", "Judge tokens paid for, by model and kind.", "model", "kind"
        )
        self.judge_cost = counter(
            "judge_cost_dollars_total",
            "Money spent on judges, by key, grader version and model.",
            "key",
            "grader",
            "model",
        )
        self.judge_cache = counter(
            "judge_cache_total", "Questions to judges, by what the cache did.", "result"
        )
        self.judge_flights = counter(
            "judge_flights_total", "Questions that had to be asked, by part played.", "part"
        )
        self.judge_refused = counter(
            "judge_refused_total", "Questions that were not asked, by reason.", "reason"
        )
        self.judge_in_flight = gauge("judge_in_flight", "Calls at the upstream.", "route")
        self.judge_queued = gauge("judge_queued", "Calls waiting for a place.", "route")
        self.judge_circuit_open = gauge(
            "judge_circuit_open", "Workers whose circuit of this route is not closed.", "route"
        )

    def _declare_store(self) -> None:
        self.store_operations = self._counter(
            "store_operations_total", "Operations of the store, by outcome.", "operation", "outcome"
        )
        self.store_away = self._gauge("store_away", "Workers that leave Redis alone for now.")

    def exposition(self) -> tuple[bytes, str]:
        """Return the text of all workers' series and its content type."""
        if self._multiprocess_dir is None:
            return generate_latest(self.registry), CONTENT_TYPE_LATEST
        registry = CollectorRegistry()
        MultiProcessCollector(registry, path=self._multiprocess_dir)  # type: ignore[no-untyped-call]
        return generate_latest(registry), CONTENT_TYPE_LATEST

    def mark_stopped(self) -> None:
        """Take this process's gauges out of the sums once it ends."""
        if self._multiprocess_dir is not None:
            mark_process_dead(os.getpid(), path=self._multiprocess_dir)  # type: ignore[no-untyped-call]


def add_observations(histogram: Histogram, counts: Mapping[int, float], total: float) -> None:
    """Add many observations to the child of a histogram at once, which prometheus-client cannot.

    Args:
        histogram: The child: what ``labels`` gave.
        counts: Number of the bucket, from 0 → observations in it and in no lower one.
        total: Sum of the observations.
    """
    for number, count in counts.items():
        histogram._buckets[number].inc(count)  # noqa: SLF001 - see above
    histogram._sum.inc(total)  # noqa: SLF001 - see above


def observe_all(histogram: Histogram, values: Sequence[float]) -> None:
    """Observe every one of ``values`` in the child of a histogram."""
    bounds = histogram._upper_bounds  # noqa: SLF001 - has no public name
    counts = Tally(bisect_left(bounds, value) for value in values)
    add_observations(histogram, counts, math.fsum(values))


class GradeCounter:
    """Counts the grades of one definition with label look-ups done once."""

    def __init__(self, metrics: Metrics, grader: str, version: str) -> None:
        """Take the series of this definition."""
        self._failures = metrics.grade_failures
        self._outcomes: Mapping[str, Counter] = {
            outcome: metrics.grades.labels(grader, version, outcome)
            for outcome in ("ok", "failed", "upstream")
        }

    def count(self, outcome: str, number: int = 1) -> None:
        """Count ``number`` grades of one outcome."""
        self._outcomes[outcome].inc(number)

    def graded(self, grade: Grade) -> None:
        """Count one grade: ``ok``, ``failed``, or ``upstream`` when nobody could be asked."""
        if grade.ok:
            self.count("ok")
            return
        self.count("upstream" if grade.upstream_failure else "failed")
        for failure in grade.failures:
            self.failure(failure.code)

    def failure(self, code: str) -> None:
        """Count one failure."""
        self._failures.labels(code).inc()
