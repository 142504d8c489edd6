"""The catalogue of metrics: every series of the service is declared here, with unit and help.

With several workers the values live in files that all of them share (prometheus-client's
multiprocess mode, switched on by ``PROMETHEUS_MULTIPROC_DIR``, which ``serve`` sets), so that a
scrape of any worker shows all of them. Label values are bounded: `LABELS` says by what.
"""

from __future__ import annotations

import os
from typing import Literal

import msgspec
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

from service.judge.stats import SECONDS_BUCKETS

MULTIPROCESS_DIR = "PROMETHEUS_MULTIPROC_DIR"
PREFIX = "gradekeeper_"

_LATENCY_BUCKETS = (
    *(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1),
    *(0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0),
)
_GRADE_BUCKETS = (0.00001, 0.0001, *_LATENCY_BUCKETS[1:])
_REWARD_BUCKETS = (-1.0, 0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 2.0, 5.0, 10.0)

Merge = Literal["livesum", "livemin", "livemax", "mostrecent"]

LABELS = {
    "code": "Code of a failure, as answers and logs spell it.",
    "grader": "Name of a grader in force, or `(ad hoc)` for those that came with their request; "
    "of costs `name@version`, empty for an ad hoc one.",
    "key": "Name of a configured API key; empty without keys.",
    "kind": "`prompt`, `completion` or `cached`.",
    "level": "`namespaces`, `lsm`, `seccomp` or `process`.",
    "method": "Usual HTTP method; `(other)` for any other.",
    "model": "Judge model that answered; `(other)` after the first hundred.",
    "name": "Name of a key or grader with a budget, or empty.",
    "operation": "Operation of the store.",
    "outcome": "What came of it, from a fixed set for each series.",
    "part": "What a question did: `leader`, `joined`, `followed`, `alone`, `taken_over` or "
    "`abandoned`.",
    "per": "Whose budget: `key`, `grader` or `total`.",
    "phase": "`whole`: one sample by a definition; `part`: one part of a definition that asks "
    "something outside; `queue`: of that, waiting for a slot of the sandbox.",
    "reason": "Why, from a fixed set for each series.",
    "result": "What the cache did: `hit_process`, `hit_store`, `miss`, `refresh`, `off`, "
    "`garbage` or `stored`.",
    "route": "Of requests the path template, `(none)` where none matched; of judges the name of a "
    "route of the routes file.",
    "sign": "`positive` or `negative`.",
    "state": "`off`, `starting`, `running` or `refused`.",
    "status": "HTTP status of the answer.",
    "type": "Type of the grader, as the JSON spells it.",
    "version": "Version of a grader, empty for ad hoc ones; of the build that of gradekeeper.",
}


class Series(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of the catalogue.

    Attributes:
        name: As it is written in queries; of a histogram without ``_bucket``, ``_count``, ``_sum``.
        type: Prometheus' type.
        unit: What one is.
        help: What is measured, in a sentence.
        labels: Names of its labels, all explained in `LABELS`.
    """

    name: str
    type: Literal["counter", "gauge", "histogram"]
    unit: str
    help: str
    labels: tuple[str, ...]


class Metrics:
    """Every series of one process.

    Attributes:
        catalogue: What is declared, in order.
    """

    def __init__(self, *, multiprocess_dir: str | None = None) -> None:
        """Declare the series in a registry of their own."""
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._multiprocess_dir = multiprocess_dir
        self.registry = CollectorRegistry()
        self.catalogue: list[Series] = []
        self._declare_requests()
        self._declare_grades()
        self._declare_rewards()
        self._declare_definitions()
        self._declare_sandbox()
        self._declare_judge()
        self._declare_money()
        self._declare_store()
        self._declare_process()

    def _counter(self, name: str, unit: str, text: str, *labels: str) -> Counter:
        self._enter("counter", name, unit, text, labels)
        return Counter(PREFIX + name, text, labels, registry=self.registry)

    def _gauge(
        self, name: str, unit: str, text: str, *labels: str, merge: Merge = "livesum"
    ) -> Gauge:
        self._enter("gauge", name, unit, text, labels)
        return Gauge(PREFIX + name, text, labels, registry=self.registry, multiprocess_mode=merge)

    def _histogram(
        self, name: str, unit: str, text: str, *labels: str, buckets: tuple[float, ...]
    ) -> Histogram:
        self._enter("histogram", name, unit, text, labels)
        return Histogram(PREFIX + name, text, labels, registry=self.registry, buckets=buckets)

    def _enter(
        self,
        kind: Literal["counter", "gauge", "histogram"],
        name: str,
        unit: str,
        text: str,
        labels: tuple[str, ...],
    ) -> None:
        self.catalogue.append(
            Series(name=PREFIX + name, type=kind, unit=unit, help=text, labels=labels)
        )

    def _declare_requests(self) -> None:
        self.requests = self._counter(
            "requests_total", "requests", "Requests answered.", "method", "route", "status"
        )
        self.request_seconds = self._histogram(
            "request_duration_seconds",
            "seconds",
            "Seconds from the first byte of a request to the last of its answer.",
            "route",
            buckets=_LATENCY_BUCKETS,
        )
        self.in_flight = self._gauge("requests_in_flight", "requests", "Requests being handled.")

    def _declare_grades(self) -> None:
        self.grades = self._counter(
            "grades_total",
            "grades",
            "Grades made, by outcome: ok, failed (the grader could not) or upstream (nobody could "
            "be asked).",
            *("grader", "version", "outcome"),
        )
        self.grade_failures = self._counter(
            "grade_failures_total",
            "failures",
            "Failures of graders and their parts, by code.",
            "code",
        )
        self.grade_seconds = self._histogram(
            "grade_duration_seconds",
            "seconds",
            "Seconds that grading took, by type of grader and phase; samples of a batch that is "
            "graded in blocks count as their block's mean, of an ensemble every draw counts.",
            *("type", "phase"),
            buckets=_GRADE_BUCKETS,
        )
        self.grades_in_flight = self._gauge(
            "grades_in_flight",
            "samples",
            "Samples being graded by definitions that ask something outside, by type.",
            "type",
        )
        self.rows_pending = self._gauge(
            "batch_rows_pending", "rows", "Rows of JSON batches that still wait for their grade."
        )
        self.submitted_running = self._gauge(
            "submitted_rewards_running", "requests", "Submitted requests that can be polled for."
        )

    def _declare_rewards(self) -> None:
        labels = ("grader", "version")
        self.rewards = self._histogram(
            "rewards",
            "reward",
            "Rewards of grades that are ok. Their sum falls with negative rewards: for means there "
            "is gradekeeper_reward_sum_total.",
            *labels,
            buckets=_REWARD_BUCKETS,
        )
        self.reward_sum = self._counter(
            "reward_sum_total",
            "reward",
            "Sum of the positive rewards, and of the negative ones without their sign; a reward "
            "counts a million at most.",
            *labels,
            "sign",
        )
        self.reward_squares = self._counter(
            "reward_squares_total", "reward²", "Sum of the squares of the same rewards.", *labels
        )
        self.reward_baseline_mean = self._gauge(
            "reward_baseline_mean",
            "reward",
            "Mean reward that the operator expects of this version.",
            *labels,
            merge="mostrecent",
        )
        self.reward_baseline_std = self._gauge(
            "reward_baseline_std",
            "reward",
            "Standard deviation of the rewards behind that mean.",
            *labels,
            merge="mostrecent",
        )

    def _declare_definitions(self) -> None:
        self.definitions = self._gauge(
            "definitions", "versions", "Definition versions being served.", merge="mostrecent"
        )
        self.reload_failed = self._gauge(
            "definitions_reload_failed",
            "0 or 1",
            "1 when the last attempt to read the definitions again failed; the old ones are kept.",
            merge="livemax",
        )
        self.reloads = self._counter(
            "definitions_reloads_total",
            "attempts",
            "Attempts to read the definitions again, by outcome.",
            "outcome",
        )

    def _declare_sandbox(self) -> None:
        counter, gauge = self._counter, self._gauge
        self.sandbox_calls = counter(
            "sandbox_calls_total", "calls", "Calls of Python graders, by outcome.", "outcome"
        )
        self.sandbox_queue_seconds = counter(
            "sandbox_queue_seconds_total", "seconds", "Seconds Python graders waited for a slot."
        )
        self.sandbox_execution_seconds = counter(
            "sandbox_execution_seconds_total", "seconds", "Seconds Python graders ran."
        )
        self.sandbox_kills = counter(
            "sandbox_kills_total",
            "processes",
            "Processes of Python graders killed, by reason.",
            "reason",
        )
        self.sandbox_restarts = counter(
            "sandbox_zygote_restarts_total", "zygotes", "Zygotes that died and were replaced."
        )
        self.sandbox_running = gauge("sandbox_running", "calls", "Python graders running.")
        self.sandbox_waiting = gauge(
            "sandbox_waiting", "calls", "Python graders waiting for a slot."
        )
        self.sandbox_tiers = gauge("sandbox_tiers", "package sets", "Warm package sets.")
        self.sandbox_tier_bytes = gauge(
            "sandbox_tiers_memory_bytes",
            "bytes",
            "Own resident memory of the warm package sets.",
        )
        self.sandbox_level = gauge(
            "sandbox_level",
            "workers",
            "Workers whose sandbox reached this isolation level.",
            "level",
        )
        self.sandbox_state = gauge(
            "sandbox_state",
            "workers",
            "Workers by the state of their sandbox; refused is below the minimum isolation, or "
            "without an image.",
            "state",
        )

        self.runner_calls = counter(
            "runner_calls_total", "calls", "Calls sent to a separate runner, by outcome.", "outcome"
        )
        self.runner_in_flight = gauge(
            "runner_in_flight", "calls", "Calls under way at a separate runner."
        )
        self.runner_away = gauge(
            "runner_away",
            "workers",
            "Workers whose runner was last out of reach or refused their token.",
        )

    def _declare_judge(self) -> None:
        counter, gauge = self._counter, self._gauge
        self.judge_attempts = counter(
            "judge_attempts_total",
            "requests",
            "Requests to judge upstreams, by route and outcome.",
            *("route", "outcome"),
        )
        self.judge_retries = counter(
            "judge_retries_total", "requests", "Repeated attempts, by route.", "route"
        )
        self.judge_seconds = self._histogram(
            "judge_duration_seconds",
            "seconds",
            "Seconds of successful attempts, by route.",
            "route",
            buckets=SECONDS_BUCKETS,
        )
        self.judge_wait_seconds = self._histogram(
            "judge_wait_seconds",
            "seconds",
            "Seconds attempts waited for a slot, a rate limit or the circuit, by route.",
            "route",
            buckets=SECONDS_BUCKETS,
        )
        self.judge_cache = counter(
            "judge_cache_total",
            "questions",
            "Questions to judges, by what the cache did.",
            "result",
        )
        self.judge_flights = counter(
            "judge_flights_total",
            "questions",
            "Questions that had to be asked, by part played.",
            "part",
        )
        self.judge_refused = counter(
            "judge_refused_total",
            "questions",
            "Questions that were not asked, by reason.",
            "reason",
        )
        self.judge_in_flight = gauge("judge_in_flight", "calls", "Calls at the upstream.", "route")
        self.judge_queued = gauge("judge_queued", "calls", "Calls waiting for a place.", "route")
        self.judge_circuit_open = gauge(
            "judge_circuit_open",
            "workers",
            "Workers whose circuit of this route is not closed.",
            "route",
        )

    def _declare_money(self) -> None:
        self.judge_tokens = self._counter(
            "judge_tokens_total",
            "tokens",
            "Judge tokens paid for, by model and kind.",
            *("model", "kind"),
        )
        self.judge_cost = self._counter(
            "judge_cost_dollars_total",
            "dollars",
            "Money spent on judges, by key, grader version and model.",
            *("key", "grader", "model"),
        )
        self.budget_limit = self._gauge(
            "judge_budget_limit_dollars",
            "dollars",
            "Dollars that may be spent on judges in one UTC day, by budget.",
            *("per", "name"),
            merge="mostrecent",
        )
        self.budget_left = self._gauge(
            "judge_budget_left_dollars",
            "dollars",
            "Dollars of today's budget that are not spent yet, at most 5 s old; of several workers "
            "without Redis the one that has least left.",
            *("per", "name"),
            merge="livemin",
        )

    def _declare_store(self) -> None:
        self.store_operations = self._counter(
            "store_operations_total",
            "operations",
            "Operations of the store, by outcome.",
            *("operation", "outcome"),
        )
        self.store_away = self._gauge(
            "store_away", "workers", "Workers that leave Redis alone for now."
        )

    def _declare_process(self) -> None:
        self.workers = self._gauge("workers", "workers", "Worker processes.")
        self.late_seconds = self._counter(
            "event_loop_late_seconds_total",
            "seconds",
            "Seconds by which the event loop was late for a timer that is due 20 times a second; "
            "its rate is the share of time in which work had to wait for the processor.",
        )
        self.build_info = self._gauge(
            "build_info", "1", "Version that runs.", "version", merge="mostrecent"
        )

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
