"""Prometheus metrics: counts and latencies by route, never a query, a key or a person."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class Metrics:
    """One server's metrics, in a registry of their own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "mercato_requests", "HTTP requests answered", ["route", "method", "status"], registry=self._registry
        )
        self._seconds = Histogram(
            "mercato_request_seconds", "Time to the answer", ["route"], buckets=_BUCKETS, registry=self._registry
        )

    def request(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count one answered request; `route` is the route's template."""
        self._requests.labels(route, method, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def gauge(self, name: str, description: str, value: Callable[[], float]) -> None:
        """Report `value()` at each reading."""
        Gauge(name, description, registry=self._registry).set_function(value)

    def text(self) -> bytes:
        """The exposition format, version 0.0.4."""
        return generate_latest(self._registry)
