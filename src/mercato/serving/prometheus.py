"""Prometheus metrics: counts and latencies by route, never a query, a key or a person.

Where several processes serve, each counts into files of a folder that they share, and whichever is asked adds them up.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

FOLDER = "PROMETHEUS_MULTIPROC_DIR"  # read by prometheus_client as it is imported
_ALLOCATED = 1 << 19  # bytes of a process's file of counts, more than every route, method and status together take
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class Metrics:
    """One server's metrics, in a registry of their own."""

    def __init__(self) -> None:
        if FOLDER in os.environ:
            _allocate(Path(os.environ[FOLDER]))
        self._counts, self._gauges = CollectorRegistry(), _Gauges()
        self._requests = Counter(
            "mercato_requests", "HTTP requests answered", ["route", "method", "status"], registry=self._counts
        )
        self._seconds = Histogram(
            "mercato_request_seconds", "Time to the answer", ["route"], buckets=_BUCKETS, registry=self._counts
        )
        self._ranked = Counter(
            "mercato_searches_ranked", "Pages of a search, by the last ranking stage", ["stage"], registry=self._counts
        )
        self._left_out = Counter(
            "mercato_ranking_left_out", "Pages for which a ranking stage was left out", ["why"], registry=self._counts
        )
        self._followed: list[_Followed] = []

    def request(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count one answered request; `route` is the route's template."""
        self._requests.labels(route, method, str(status)).inc()
        self._seconds.labels(route).observe(seconds)
        for each in self._followed:
            each.catch_up()

    def ranked(self, stage: str | None, left_out: str | None) -> None:
        """Count one page of a search that this stage ordered last; None: no stage did. And why one was left out."""
        self._ranked.labels(stage or "none").inc()
        if left_out:
            self._left_out.labels(left_out).inc()

    def count(self, name: str, description: str, value: Callable[[], int]) -> None:
        """Report what this process counts elsewhere; it is looked up with every request."""
        self._followed.append(_Followed(Counter(name, description, registry=self._counts), value))

    def gauge(self, name: str, description: str, value: Callable[[], float]) -> None:
        """Report `value()`, the same for every process, at each reading."""
        self._gauges.values[name, description] = value

    def text(self) -> bytes:
        """The exposition format, version 0.0.4."""
        counts = self._counts
        if FOLDER in os.environ:
            counts = CollectorRegistry()
            _Together(counts)  # type: ignore[no-untyped-call]
        gauges = CollectorRegistry()
        gauges.register(self._gauges)
        return generate_latest(counts) + generate_latest(gauges)


def _allocate(folder: Path) -> None:
    """Make this process's files as large as they get. The library maps files with holes into memory, and a process that
    counts into a hole of a full disk is ended by the system.
    """
    for kind in ("counter", "histogram"):
        with (folder / f"{kind}_{os.getpid()}.db").open("ab") as file:
            file.write(bytes(_ALLOCATED - file.tell()))


class _Together(MultiProcessCollector):
    """The counts of all processes; the library would read the folder's name as a pattern."""

    def collect(self) -> Any:
        return self.merge([str(file) for file in Path(self._path).glob("*.db")])  # type: ignore[no-untyped-call]


class _Gauges(Collector):
    def __init__(self) -> None:
        self.values: dict[tuple[str, str], Callable[[], float]] = {}

    def collect(self) -> Iterator[GaugeMetricFamily]:
        for (name, description), value in self.values.items():
            yield GaugeMetricFamily(name, description, value=value())


class _Followed:
    """A counter of what is counted elsewhere."""

    def __init__(self, counter: Counter, value: Callable[[], int]) -> None:
        self._counter, self._value, self._counted = counter, value, 0

    def catch_up(self) -> None:
        value = self._value()
        if value != self._counted:
            self._counter.inc(value - self._counted)
            self._counted = value
