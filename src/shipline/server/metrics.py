"""The node's metrics; dashboards and alerts depend on their names (docs/registry.md)."""

from __future__ import annotations

import platform
import threading
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from operator import itemgetter
from typing import Self

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Info,
    Metric,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from shipline import __version__
from shipline.server.http import Request, Response

Labels = tuple[str, ...]
Readings = float | Mapping[Labels, float]
_METHODS = frozenset({"GET", "HEAD", "PUT", "POST", "PATCH", "DELETE", "OPTIONS"})
_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)
_PREFIX = "shipline_registry_"


class Metrics:
    """The metrics of one node; its parts increment the attributes.

    `verdicts`: signature checks, by allowed, refused or undecided. `refusals`: refused requests, by
    rule. `logins`: by ok, refused or limited. `gc_runs`: by ok or failed; `gc_freed` in bytes.
    `deliveries`: webhooks, by target and result.
    """

    def __init__(self, uploads: Callable[[], int] = lambda: 0) -> None:
        """`uploads` returns the number of blob uploads in flight."""
        disable_created_metrics()  # no second series per counter
        self._registry = CollectorRegistry()
        self._requests = _Requests()
        self._registry.register(self._requests)
        self.verdicts = self.counter("signature_verdicts_total", "Signature checks.", "verdict")
        self.refusals = self.counter("policy_refusals_total", "Requests refused.", "rule")
        self.logins = self.counter("logins_total", "Login attempts.", "result")
        self.gc_runs = self.counter("gc_runs_total", "Garbage collections.", "result")
        self.gc_freed = self.counter("gc_freed_bytes_total", "Bytes freed by garbage collection.")
        self.deliveries = self.counter(
            "webhook_deliveries_total", "Webhook delivery attempts.", "target", "result"
        )
        for counter, values in (
            (self.verdicts, ("allowed", "refused", "undecided")),
            (self.refusals, ("evidence", "immutable", "quota", "signature", "vulnerability")),
            (self.logins, ("ok", "refused", "limited")),
            (self.gc_runs, ("ok", "failed")),
        ):
            for value in values:  # from 0 on, so that the first one is an increase
                counter.labels(value)
        self.gauge("uploads_in_flight", "Blob uploads in flight.", lambda: float(uploads()))
        ProcessCollector(registry=self._registry)
        Info(_PREFIX + "build", "The running version.", registry=self._registry).info(
            {"version": __version__, "python": platform.python_version()}
        )

    def counter(self, name: str, text: str, *labels: str) -> Counter:
        """Register a counter, prefixed with `shipline_registry_`."""
        return Counter(_PREFIX + name, text, labels, registry=self._registry)

    def gauge(self, name: str, text: str, read: Callable[[], Readings], *labels: str) -> None:
        """Register a gauge. `read` is called at each scrape, must be quick and not raise, and
        returns a number, or one per combination of label values.
        """
        self._registry.register(_Gauge(_PREFIX + name, text, labels, read))

    def record(self, request: Request, response: Response, seconds: float) -> None:
        """Count one request, answered after `seconds`."""
        method = request.method if request.method in _METHODS else "other"
        sent = 0 if method == "HEAD" else response.size
        self._requests.add(request.kind, method, response.status, seconds, request.received, sent)

    def render(self) -> bytes:
        """The metrics in text format 0.0.4."""
        return generate_latest(self._registry)


@dataclass(slots=True)
class _Sums:
    """Sums for one route, method and status, or for one route."""

    seconds: float = 0.0
    received: int = 0
    sent: int = 0
    buckets: list[int] = field(default_factory=lambda: [0] * (len(_BUCKETS_S) + 1))

    def __iadd__(self, other: _Sums) -> Self:
        self.seconds += other.seconds
        self.received += other.received
        self.sent += other.sent
        self.buckets = [a + b for a, b in zip(self.buckets, other.buckets, strict=True)]
        return self


class _Requests(Collector):
    """Requests by route, method and status, with durations and bytes.

    One lock and one entry per request; a scrape derives the series. Four metrics of
    prometheus_client take three times as long.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sums: defaultdict[tuple[str, str, int], _Sums] = defaultdict(_Sums)

    def add(
        self, route: str, method: str, status: int, seconds: float, received: int, sent: int
    ) -> None:
        """Count one request; body sizes in bytes."""
        bucket = bisect_left(_BUCKETS_S, seconds)
        with self._lock:
            sums = self._sums[route, method, status]
            sums.seconds += seconds
            sums.received += received
            sums.sent += sent
            sums.buckets[bucket] += 1

    def collect(self) -> Iterator[Metric]:
        answers = CounterMetricFamily(
            _PREFIX + "requests", "Responses.", labels=("route", "method", "status")
        )
        routes: defaultdict[str, _Sums] = defaultdict(_Sums)
        with self._lock:
            for (route, method, status), sums in sorted(self._sums.items(), key=itemgetter(0)):
                answers.add_metric((route, method, str(status)), sum(sums.buckets))
                routes[route] += sums
        yield answers
        yield _durations(routes)
        received = sum(sums.received for sums in routes.values())
        sent = sum(sums.sent for sums in routes.values())
        yield _total("received_bytes", "Bytes of request bodies read.", received)
        yield _total("sent_bytes", "Bytes of response bodies.", sent)


def _durations(routes: Mapping[str, _Sums]) -> Metric:
    family = HistogramMetricFamily(
        _PREFIX + "request_duration_seconds",
        "From a request's head to the start of its response.",
        labels=("route",),
    )
    bounds = (*map(str, _BUCKETS_S), "+Inf")
    for route, sums in routes.items():
        buckets = list(zip(bounds, accumulate(sums.buckets), strict=True))
        family.add_metric((route,), buckets, sums.seconds)
    return family


def _total(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(_PREFIX + name, text, value=value)


class _Gauge(Collector):
    """A gauge whose label values are known only at scrape time."""

    def __init__(self, name: str, text: str, labels: Labels, read: Callable[[], Readings]) -> None:
        self._name, self._text, self._labels, self._read = name, text, labels, read

    def collect(self) -> Iterator[Metric]:
        readings = self._read()
        family = GaugeMetricFamily(self._name, self._text, labels=self._labels)
        for labels, value in (
            readings.items() if isinstance(readings, Mapping) else [((), readings)]
        ):
            family.add_metric(labels, value)
        yield family
