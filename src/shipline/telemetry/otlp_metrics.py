"""Metrics of runs over OTLP, with OpenTelemetry's SDK: ours, and those of the semantic conventions.

https://opentelemetry.io/docs/specs/semconv/cicd/cicd-metrics/
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from opentelemetry.metrics import Meter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, MetricExporter

from shipline import __version__
from shipline.events import Event, Finished
from shipline.telemetry.conventions import TracedRun
from shipline.telemetry.metrics import (
    RUN,
    RUN_ERRORS,
    MetricDefinition,
    MetricValues,
    RunMetrics,
    label,
)
from shipline.telemetry.otlp import export
from shipline.telemetry.sdk import load_exporters, resource

_CONVENTIONS = {RUN: "cicd.pipeline.run.duration", RUN_ERRORS: "cicd.pipeline.run.errors"}


class MetricSource:
    """The metrics of a run, once it has ended."""

    def __init__(self, run: TracedRun, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self._exporters = load_exporters("metrics", environ)
        self._ended: list[MetricValues] = []
        self._metrics = RunMetrics(label(run.pipeline), self._ended.append)

    def take(self, event: Event) -> Iterator[MetricValues]:
        self._metrics(event)
        if isinstance(event, Finished) and event.span == self._metrics.root:
            self._metrics.close()
            yield from self._ended

    def send(self, records: Sequence[MetricValues]) -> None:
        for values in records:
            export_metrics(values, self._exporters, self._environ)

    def close(self) -> None:
        for exporter in self._exporters:
            exporter.shutdown()


def export_metrics(
    values: MetricValues, exporters: Sequence[MetricExporter], environ: Mapping[str, str]
) -> None:
    """Send the values once. Raises ExportFailed."""
    readers = [
        InMemoryMetricReader(one._preferred_temporality, one._preferred_aggregation)
        for one in exporters
    ]
    provider = MeterProvider(readers, resource(environ), shutdown_on_exit=False)
    meter = provider.get_meter("shipline", __version__)
    for metric in dict.fromkeys(series.metric for series in values):
        _record(meter, metric, metric.semantic_name, values)
        if metric in _CONVENTIONS:
            _record(meter, metric, _CONVENTIONS[metric], values)
    for exporter, reader in zip(exporters, readers, strict=True):
        if data := reader.get_metrics_data():
            export([exporter], data)
    provider.shutdown()


def _record(meter: Meter, metric: MetricDefinition, name: str, values: MetricValues) -> None:
    conventional = name in _CONVENTIONS.values()
    for labels, several in _of(metric, values):
        attributes = dict(zip(metric.labels, labels, strict=True))
        attributes = _conventional(attributes) if conventional else attributes
        text, unit = metric.text, metric.unit
        for value in several:
            if metric.kind == "histogram":
                bounds = metric.buckets
                meter.create_histogram(
                    name, unit, text, explicit_bucket_boundaries_advisory=bounds
                ).record(value, attributes)
            elif metric.kind == "counter":
                meter.create_counter(name, unit, text).add(value, attributes)
            else:
                meter.create_gauge(name, unit, text).set(value, attributes)


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
