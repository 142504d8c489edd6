"""Copies what the adapters count into the metrics, every few seconds and before every scrape.

The adapters know nothing of Prometheus: they keep plain numbers that only grow, and what was added
since the last look is added to the series.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from prometheus_client import Counter, Gauge, Histogram

from service.adapters import Adapters
from service.judge.stats import Latency
from service.metrics import Metrics, add_observations
from service.stores import NANO

_LEVELS = ("namespaces", "lsm", "seccomp", "process")


class Observer:
    """Looks at the adapters of one process."""

    def __init__(self, metrics: Metrics, adapters: Adapters) -> None:
        """Copy from ``adapters`` into ``metrics``."""
        self._metrics = metrics
        self._adapters = adapters
        self._seen: dict[tuple[object, ...], float] = {}
        self._histograms: dict[tuple[Histogram, str], Latency] = {}

    def look(self) -> None:
        """Bring the series up to date."""
        self._sandbox()
        self._judge()
        self._store()

    def _grown(self, counter: Counter, values: Mapping[Any, float]) -> None:
        """Add what ``values``, by tuple of labels, have grown by."""
        for labels, value in values.items():
            key = (counter, *labels)
            delta = value - self._seen.get(key, 0.0)
            if delta > 0:
                (counter.labels(*labels) if labels else counter).inc(delta)
                self._seen[key] = value

    def _sandbox(self) -> None:
        running = self._adapters.sandbox.running
        if running is None:
            return
        stats, metrics = running.stats(), self._metrics
        self._grown(metrics.sandbox_calls, {(k,): v for k, v in stats.calls.items()})
        self._grown(metrics.sandbox_kills, {(k,): v for k, v in stats.kills.items()})
        self._grown(metrics.sandbox_queue_seconds, {(): stats.queue_s})
        self._grown(metrics.sandbox_execution_seconds, {(): stats.execution_s})
        self._grown(metrics.sandbox_restarts, {(): stats.zygote_restarts})
        metrics.sandbox_running.set(stats.running)
        metrics.sandbox_waiting.set(stats.waiting)
        metrics.sandbox_tiers.set(len(stats.tiers))
        metrics.sandbox_tier_bytes.set(sum(tier.memory_bytes for tier in stats.tiers))
        for level in _LEVELS:
            metrics.sandbox_level.labels(level).set(level == stats.level)

    def _judge(self) -> None:
        judge, metrics = self._adapters.judge, self._metrics
        stats = judge.stats
        self._grown(metrics.judge_attempts, stats.attempts)
        self._grown(metrics.judge_retries, {(k,): v for k, v in stats.retries.items()})
        self._grown(metrics.judge_tokens, stats.tokens)
        spent = {labels: nano / NANO for labels, nano in stats.nanodollars.items()}
        self._grown(metrics.judge_cost, spent)
        self._grown(metrics.judge_cache, {(k,): v for k, v in stats.cache.items()})
        self._grown(metrics.judge_flights, {(k,): v for k, v in stats.flights.items()})
        self._grown(metrics.judge_refused, {(k,): v for k, v in stats.refused.items()})
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
        self._grown(self._metrics.store_operations, stats.operations)
        self._metrics.store_away.set(stats.away)


def _set(gauge: Gauge, route: str, value: float) -> None:
    gauge.labels(route).set(value)
