"""Metrics of runs for a receiver of OTLP: ours, and those of the semantic conventions.

https://opentelemetry.io/docs/specs/semconv/cicd/cicd-metrics/; opentelemetry-proto, metrics/v1.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from struct import pack

from shipline.events import Event, Finished, Started
from shipline.grpc.protobuf import double, fixed64, integer, part, text
from shipline.telemetry.conventions import TracedRun
from shipline.telemetry.metrics import (
    RUN,
    RUN_ERRORS,
    MetricDefinition,
    MetricValues,
    RunMetrics,
    label,
)
from shipline.telemetry.otlp_messages import attributes, nanoseconds
from shipline.telemetry.receiver import OtlpReceiver
from shipline.telemetry.variables import word

_CONVENTIONS = {RUN: "cicd.pipeline.run.duration", RUN_ERRORS: "cicd.pipeline.run.errors"}
_DELTA, _CUMULATIVE = 1, 2
_PREFIX = "OTEL_EXPORTER_OTLP_METRICS_"


class MetricSource:
    """The metrics of a run, once it has ended."""

    def __init__(self, run: TracedRun, environ: Mapping[str, str]) -> None:
        self._receiver = OtlpReceiver("metrics", environ, run.run)
        preferred = word(f"{_PREFIX}TEMPORALITY_PREFERENCE", environ)
        self._temporality = _DELTA if preferred in ("delta", "lowmemory") else _CUMULATIVE
        self._started = 0
        self._ended: list[MetricValues] = []
        self._metrics = RunMetrics(label(run.pipeline), self._ended.append)

    def take(self, event: Event) -> Iterator[MetricValues]:
        self._metrics(event)
        if isinstance(event, Started) and not self._started:
            self._started = nanoseconds(event.at)
        if isinstance(event, Finished) and event.span == self._metrics.root:
            self._metrics.close()
            yield from self._ended

    def send(self, records: Sequence[MetricValues]) -> Iterator[int]:
        for values in records:
            for _ in self._receiver.send(encoded(values, self._started, self._temporality)):
                pass
            yield 1

    def close(self) -> None:
        self._receiver.close()


def encoded(values: MetricValues, started: int = 0, temporality: int = _CUMULATIVE) -> list[bytes]:
    """The values of now, a Metric for each name; `started` is when they were nothing, in
    nanoseconds of Unix time, 0 if nobody knows.
    """
    times = fixed64(2, started) + fixed64(3, time.time_ns())
    found = []
    for metric in dict.fromkeys(series.metric for series in values):
        found.append(_metric(metric, metric.semantic_name, values, times, temporality))
        if metric in _CONVENTIONS:
            found.append(_metric(metric, _CONVENTIONS[metric], values, times, temporality))
    return found


def _metric(
    metric: MetricDefinition, name: str, values: MetricValues, times: bytes, temporality: int
) -> bytes:
    points: dict[bytes, list[float]] = {}
    number = 9 if metric.kind == "histogram" else 7  # of the attributes
    for labels, several in _of(metric, values):
        facts = dict(zip(metric.labels, labels, strict=True))
        facts = facts if name == metric.semantic_name else _conventional(facts)
        points.setdefault(attributes(number, facts), []).extend(several)
    head = text(1, name) + text(2, metric.text) + text(3, metric.unit)
    if metric.kind == "histogram":
        bounds = metric.buckets
        data = b"".join(
            part(1, facts + times + _histogram(several, bounds))
            for facts, several in points.items()
        )
        return head + part(9, data + integer(2, temporality))
    shown = sum if metric.kind == "counter" else max
    data = b"".join(
        part(1, facts + times + double(4, shown(several))) for facts, several in points.items()
    )
    if metric.kind == "counter":
        return head + part(7, data + integer(2, temporality) + integer(3, 1))
    return head + part(5, data)


def _histogram(several: Sequence[float], bounds: Sequence[float]) -> bytes:
    counts = [0] * (len(bounds) + 1)
    for value in several:
        counts[bisect_left(bounds, value)] += 1
    return b"".join(
        (
            fixed64(4, len(several)),
            double(5, sum(several)),
            part(6, pack(f"<{len(counts)}Q", *counts)),
            part(7, pack(f"<{len(bounds)}d", *bounds)),
            double(11, min(several)),
            double(12, max(several)),
        )
    )


def _of(
    metric: MetricDefinition, values: MetricValues
) -> Iterator[tuple[tuple[str, ...], Sequence[float]]]:
    for series, number in values.numbers.items():
        if series.metric == metric:
            yield series.labels, (number,)
    for series, observed in values.observed.items():
        if series.metric == metric:
            yield series.labels, observed


def _conventional(labels: Mapping[str, str]) -> dict[str, str]:
    """The attributes of a run in the words of the conventions."""
    found = {"cicd.pipeline.name": labels["pipeline"] or "shipline"}
    if "code" in labels:
        return {**found, "error.type": labels["code"]}
    result = {"cicd.pipeline.result": labels["result"], "cicd.pipeline.run.state": "executing"}
    return {**found, **result}
