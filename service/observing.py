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
from service.judge.stats import Latency
from service.metrics import Metrics, add_observations
from service.sandbox import RemoteSandbox
from service.stores import NANO

_LEVELS = ("namespaces", "lsm", "seccomp", "process")


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
            metrics.sandbox_level.labels(level).set(level == stats.level)

    def _remote(self, sandbox: RemoteSandbox) -> None:
        """Everything else is the runner's to show, so that nothing is counted twice."""
        stats, metrics = sandbox.stats(), self._metrics
        self._growth.add(metrics.runner_calls, {(k,): v for k, v in stats.calls.items()})
        metrics.runner_in_flight.set(stats.in_flight)
        metrics.runner_away.set(stats.away)


class Observer:
    """Looks at the adapters of one process."""

    def __init__(self, metrics: Metrics, adapters: Adapters) -> None:
        """Copy from ``adapters`` into ``metrics``."""
        self._metrics = metrics
        self._adapters = adapters
        self._growth = Growth()
        self._sandbox = SandboxObserver(metrics, adapters.sandbox)
        self._histograms: dict[tuple[Histogram, str], Latency] = {}

    def look(self) -> None:
        """Bring the series up to date."""
        self._sandbox.look()
        self._judge()
        self._store()

    def _judge(self) -> None:
        judge, metrics = self._adapters.judge, self._metrics
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
        for state in judge.route_states:
            _set(metrics.judge_in_flight, state.route, state.in_flight)
            _set(metrics.judge_queued, state.route, state.queued)
            _set(metrics.judge_circuit_open, state.route, state.circuit != "closed")

    def _observed(self, histogram: Histogram, route: str, latency: Latency) -> None:
        """Add what a histogram counted elsewhere has grown by."""
        seen: Latency = self._histograms.get((histogram, route), Latency())
        grown = {
            number: count - seen.buckets[number]
            for number, count in enumerate(latency.buckets)
            if count > seen.buckets[number]
        }
        add_observations(histogram.labels(route), grown, latency.total_s - seen.total_s)
        self._histograms[histogram, route] = copy.deepcopy(latency)

    def _store(self) -> None:
        stats = self._adapters.store.stats
        self._growth.add(self._metrics.store_operations, stats.operations)
        self._metrics.store_away.set(stats.away)


def _set(gauge: Gauge, route: str, value: float) -> None:
    gauge.labels(route).set(value)
