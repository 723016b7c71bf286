"""What a registry node counts; dashboards and alerts depend on the names (docs/registry.md)."""

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
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.registry import Collector

from shipline import __version__
from shipline.server.http import Request, Response

Labels = tuple[str, ...]
Readings = float | Mapping[Labels, float]
_METHODS = frozenset({"GET", "HEAD", "PUT", "POST", "PATCH", "DELETE", "OPTIONS"})
_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)
_PREFIX = "shipline_registry_"


class Metrics:
    """The metrics of one node; the attributes are what its parts count on.

    `verdicts`: signatures that were judged, by allowed, refused or undecided. `refusals`: requests
    that a rule refused, by the name of the rule. `logins`: by ok, refused or limited. `gc_runs`: by
    ok or failed; `gc_freed` in bytes. `deliveries`: webhooks, by target and result.
    """

    def __init__(self, uploads: Callable[[], int] = lambda: 0) -> None:
        """`uploads` returns how many requests bring blobs right now."""
        disable_created_metrics()  # a second series for each counter, which nothing here reads
        self._registry = CollectorRegistry()
        self._requests = _Requests()
        self._registry.register(self._requests)
        self.verdicts = self.counter("signature_verdicts_total", "Images judged.", "verdict")
        self.refusals = self.counter("policy_refusals_total", "Requests refused.", "rule")
        self.logins = self.counter("logins_total", "Attempts to log in.", "result")
        self.gc_runs = self.counter("gc_runs_total", "Garbage collections.", "result")
        self.gc_freed = self.counter("gc_freed_bytes_total", "Bytes that collections freed.")
        self.deliveries = self.counter(
            "webhook_deliveries_total", "Webhook requests made.", "target", "result"
        )
        self.gauge("uploads_in_flight", "Requests that bring blobs now.", lambda: float(uploads()))
        ProcessCollector(registry=self._registry)
        Info(_PREFIX + "build", "The running version.", registry=self._registry).info(
            {"version": __version__, "python": platform.python_version()}
        )

    def counter(self, name: str, text: str, *labels: str) -> Counter:
        """A new counter; `shipline_registry_` is put before its name."""
        return Counter(_PREFIX + name, text, labels, registry=self._registry)

    def gauge(self, name: str, text: str, read: Callable[[], Readings], *labels: str) -> None:
        """A new gauge that calls `read` at each scrape, which must be quick and never raise. It
        returns a number, or a number for each combination of label values.
        """
        self._registry.register(_Gauge(_PREFIX + name, text, labels, read))

    def answered(self, request: Request, response: Response, seconds: float) -> None:
        """Count one request, which was answered after so many seconds."""
        method = request.method if request.method in _METHODS else "other"
        sent = 0 if method == "HEAD" else response.size
        self._requests.add(request.kind, method, response.status, seconds, request.received, sent)

    def render(self) -> bytes:
        """The answer to a scrape, text format 0.0.4."""
        return generate_latest(self._registry)


@dataclass(slots=True)
class _Sums:
    """Of the requests with one route, method and status, or with one route."""

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
    """Requests by route, method and status, with their durations and bytes.

    Every request is counted here: one entry under one lock, from which a scrape derives the
    series. Four metrics of prometheus_client take three times as long.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sums: defaultdict[tuple[str, str, int], _Sums] = defaultdict(_Sums)

    def add(
        self, route: str, method: str, status: int, seconds: float, received: int, sent: int
    ) -> None:
        """One request was answered; bytes of the bodies."""
        bucket = bisect_left(_BUCKETS_S, seconds)
        with self._lock:
            sums = self._sums[route, method, status]
            sums.seconds += seconds
            sums.received += received
            sums.sent += sent
            sums.buckets[bucket] += 1

    def collect(self) -> Iterator[Metric]:
        answers = CounterMetricFamily(
            _PREFIX + "requests", "Answers.", labels=("route", "method", "status")
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
        yield _total("sent_bytes", "Bytes of answers begun.", sent)


def _durations(routes: Mapping[str, _Sums]) -> Metric:
    family = HistogramMetricFamily(
        _PREFIX + "request_duration_seconds",
        "From a request's head to the start of its answer.",
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
    """A gauge whose label values, too, are known only at the time of the scrape."""

    def __init__(self, name: str, text: str, labels: Labels, read: Callable[[], Readings]) -> None:
        self._name, self._text, self._labels, self._read = name, text, labels, read

    def collect(self) -> Iterator[Metric]:
        found = self._read()
        family = GaugeMetricFamily(self._name, self._text, labels=self._labels)
        for labels, value in found.items() if isinstance(found, Mapping) else [((), found)]:
            family.add_metric(labels, value)
        yield family
