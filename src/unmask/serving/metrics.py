"""What `/metrics` says, for Prometheus."""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)


class Metrics:
    """Counters of one server, in a registry of their own.

    Args:
        models: the names that the server's models have.
    """

    def __init__(self, models: Sequence[str]) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "unmask_requests",
            "Answers to requests, by route and status",
            ["route", "status"],
            registry=self.registry,
        )
        self.queue = self._gauge("unmask_queue", "Rows that wait for a slot")
        self.rows = self._gauge("unmask_rows_in_flight", "Rows in flight")
        self.passes = self._counter("unmask_passes", "Forward passes of rows (NFE)")
        self.tokens = self._counter("unmask_tokens", "Tokens of finished answers")
        self.finished = self._counter("unmask_rows_finished", "Rows that were finished")
        self.cancelled = self._counter("unmask_rows_cancelled", "Rows that were given up")
        self.seconds = Histogram(
            "unmask_step_seconds",
            "Seconds of one step",
            ["model"],
            buckets=SECONDS,
            registry=self.registry,
        )
        for model in models:  # so that they are all there from the first scrape on
            for metric in (self.passes, self.tokens, self.finished, self.cancelled, self.seconds):
                metric.labels(model)

    def _gauge(self, name: str, purpose: str) -> Gauge:
        return Gauge(name, purpose, ["model"], registry=self.registry)

    def _counter(self, name: str, purpose: str) -> Counter:
        return Counter(name, purpose, ["model"], registry=self.registry)

    def text(self) -> bytes:
        """All of them, as Prometheus reads them."""
        return generate_latest(self.registry)
