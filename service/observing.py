"""Copies what the adapters count into the metrics, every few seconds and before every scrape.

The adapters know nothing of Prometheus: they keep plain numbers that only grow, and what was added
since the last look is added to the series.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from prometheus_client import Counter, Gauge, Histogram

from service.adapters import Adapters, LateSandbox
from service.counting import Counts, add_observations
from service.jobs import Jobs
from service.judge import OpenAIJudge
from service.judge.stats import Latency
from service.metrics import Metrics
from service.sandbox import RemoteSandbox
from service.stores import NANO, Store

_LEVELS = ("namespaces", "lsm", "seccomp", "process")
_STATES = ("off", "starting", "running", "refused")


class Growth:
    """Adds to counters what plain numbers have grown by since the last look."""

    def __init__(self) -> None:
        """Start with everything at zero."""
        self._seen: dict[tuple[object, ...], float] = {}

    def add(self, counter: Counter, values: Mapping[Any, float]) -> None:
        """Add what ``values``, by tuple of labels, have grown by."""
        for labels, value in values.items():
            key = (counter, *labels)
            delta = value - self._seen.get(key, 0.0)
            if delta > 0:
                (counter.labels(*labels) if labels else counter).inc(delta)
                self._seen[key] = value


class SandboxObserver:
    """Looks at a sandbox, be it here or in a runner."""

    def __init__(self, metrics: Metrics, sandbox: LateSandbox | RemoteSandbox) -> None:
        """Copy from ``sandbox`` into ``metrics``."""
        self._metrics = metrics
        self._sandbox = sandbox
        self._growth = Growth()

    def look(self) -> None:
        """Bring the series up to date."""
        for state in _STATES:
            _set(self._metrics.sandbox_state, state, state == self._sandbox.state)
        if isinstance(self._sandbox, RemoteSandbox):
            self._remote(self._sandbox)
        else:
            self._local(self._sandbox)

    def _local(self, sandbox: LateSandbox) -> None:
        if sandbox.running is None:
            return
        stats, metrics, add = sandbox.running.stats(), self._metrics, self._growth.add
        add(metrics.sandbox_calls, {(k,): v for k, v in stats.calls.items()})
        add(metrics.sandbox_kills, {(k,): v for k, v in stats.kills.items()})
        add(metrics.sandbox_queue_seconds, {(): stats.queue_s})
        add(metrics.sandbox_execution_seconds, {(): stats.execution_s})
        add(metrics.sandbox_restarts, {(): stats.zygote_restarts})
        metrics.sandbox_running.set(stats.running)
        metrics.sandbox_waiting.set(stats.waiting)
        metrics.sandbox_tiers.set(len(stats.tiers))
        metrics.sandbox_tier_bytes.set(sum(tier.memory_bytes for tier in stats.tiers))
        for level in _LEVELS:
            _set(metrics.sandbox_level, level, level == stats.level)

    def _remote(self, sandbox: RemoteSandbox) -> None:
        """Everything else is the runner's to show, so that nothing is counted twice."""
        stats, metrics = sandbox.stats(), self._metrics
        self._growth.add(metrics.runner_calls, {(k,): v for k, v in stats.calls.items()})
        metrics.runner_in_flight.set(stats.in_flight)
        metrics.runner_away.set(stats.away)


class Observer:
    """Looks at the adapters of one process."""

    def __init__(self, counts: Counts, jobs: Jobs, adapters: Adapters | None) -> None:
        """Copy from ``adapters``, if there are any, and ``jobs`` into the metrics of ``counts``."""
        self._counts = counts
        self._metrics = counts.metrics
        self._jobs = jobs
        self._adapters = adapters
        self._growth = Growth()
        self._sandbox = (
            None if adapters is None else SandboxObserver(self._metrics, adapters.sandbox)
        )
        self._histograms: dict[tuple[Histogram, str], Latency] = {}

    def look(self) -> None:
        """Bring the series up to date."""
        self._counts.flush()
        self._metrics.submitted_running.set(self._jobs.running)
        if self._sandbox is not None:
            self._sandbox.look()
        if self._adapters is not None:
            self._judge(self._adapters.judge)
            self._store(self._adapters.store)

    async def look_at_budgets(self) -> None:
        """Bring the series of the budgets up to date; while Redis is away they stay as they are."""
        metrics = self._metrics
        budgets = await self._adapters.judge.budgets_today() if self._adapters else ()
        for budget in budgets:
            labels = budget.per, budget.name
            metrics.budget_limit.labels(*labels).set(budget.limit)
            if budget.spent is not None:
                metrics.budget_left.labels(*labels).set(max(0.0, budget.limit - budget.spent))

    def _judge(self, judge: OpenAIJudge) -> None:
        metrics = self._metrics
        stats = judge.stats
        self._growth.add(metrics.judge_attempts, stats.attempts)
        self._growth.add(metrics.judge_retries, {(k,): v for k, v in stats.retries.items()})
        self._growth.add(metrics.judge_tokens, stats.tokens)
        spent = {labels: nano / NANO for labels, nano in stats.nanodollars.items()}
        self._growth.add(metrics.judge_cost, spent)
        self._growth.add(metrics.judge_cache, {(k,): v for k, v in stats.cache.items()})
        self._growth.add(metrics.judge_flights, {(k,): v for k, v in stats.flights.items()})
        self._growth.add(metrics.judge_refused, {(k,): v for k, v in stats.refused.items()})
        for route, latency in stats.latency.items():
            self._observed(metrics.judge_seconds, route, latency)
        for route, latency in stats.waits.items():
            self._observed(metrics.judge_wait_seconds, route, latency)
        for state in judge.route_states:
            _set(metrics.judge_in_flight, state.route, state.in_flight)
            _set(metrics.judge_queued, state.route, state.queued)
            _set(metrics.judge_circuit_open, state.route, state.circuit != "closed")

    def _observed(self, histogram: Histogram, route: str, latency: Latency) -> None:
        """Add what a histogram that is counted elsewhere has grown by."""
        seen = self._histograms.get((histogram, route), Latency())
        counts = [now - then for now, then in zip(latency.buckets, seen.buckets, strict=True)]
        add_observations(histogram.labels(route), counts, latency.total_s - seen.total_s)
        self._histograms[histogram, route] = copy.deepcopy(latency)

    def _store(self, store: Store) -> None:
        self._growth.add(self._metrics.store_operations, store.stats.operations)
        self._metrics.store_away.set(store.stats.away)


def _set(gauge: Gauge, label: str, value: float) -> None:
    gauge.labels(label).set(value)
