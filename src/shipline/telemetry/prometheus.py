"""Metrics of runs for Prometheus: in a file of node_exporter's textfile collector, and in a
Pushgateway.

A run ends before anything could scrape it, so that its values are added to those that are there
already: counters and histograms grow over all runs, as those of a server do.
https://github.com/prometheus/pushgateway, "API"
"""

from __future__ import annotations

import base64
import hashlib
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import closing
from itertools import accumulate
from pathlib import Path
from typing import ClassVar, Self
from urllib.parse import quote, unquote, urlsplit

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client import Metric as Family
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from shipline.errors import ConfigError, ShiplineError
from shipline.files import read_bounded, write_whole
from shipline.registry.credentials import Credentials
from shipline.registry.http import HttpClient
from shipline.registry.request import ClientRequest, Url
from shipline.tasks import locked
from shipline.telemetry.metrics import METRICS, MetricDefinition, MetricValues
from shipline.values import Redacted

Sample = tuple[str, tuple[str, ...]]
"""The name of a sample, and the values of its labels; the last one of a bucket is `le`."""
Samples = Mapping[MetricDefinition, Mapping[Sample, float]]

JOB = "shipline"
_LIMIT = 32 << 20  # bytes
_BY_NAME = {metric.name: metric for metric in METRICS}


def samples_of(values: MetricValues) -> Samples:
    """The values as Prometheus has them."""
    found: defaultdict[MetricDefinition, dict[Sample, float]] = defaultdict(dict)
    for (metric, labels), number in values.numbers.items():
        found[metric][metric.name, labels] = number
    for (metric, labels), observed in values.observed.items():
        counts = [0] * (len(metric.buckets) + 1)
        for value in observed:
            counts[bisect_left(metric.buckets, value)] += 1
        for bound, count in zip(_bounds(metric), accumulate(counts), strict=True):
            found[metric][f"{metric.name}_bucket", (*labels, bound)] = count
        found[metric][f"{metric.name}_count", labels] = len(observed)
        found[metric][f"{metric.name}_sum", labels] = sum(observed)
    return found


def merge(new: Samples, before: Samples) -> Samples:
    """What is there after a run. A pipeline's values of a metric that is complete replace those
    before; other gauges replace their own, and the rest is added.
    """
    found = {metric: dict(samples) for metric, samples in before.items()}
    for metric, samples in new.items():
        there = found.setdefault(metric, {})
        if metric.complete:
            owners = {labels[0] for _, labels in samples}
            for sample in [one for one in there if one[1][0] in owners]:
                del there[sample]
        for sample, value in samples.items():
            adds = not metric.complete and metric.kind != "gauge"
            there[sample] = value + there.get(sample, 0.0) if adds else value
    return found


def parse(text: str, group: Mapping[str, str] | None = None) -> Samples:
    """The samples of our metrics in text format, of those in `group` if there is one. Raises
    ValueError.
    """
    found: defaultdict[MetricDefinition, dict[Sample, float]] = defaultdict(dict)
    stale: set[MetricDefinition] = set()
    for family in text_string_to_metric_families(text):
        total = f"{family.name}_total" if family.type == "counter" else family.name
        metric = _BY_NAME.get(total)
        for sample in family.samples if metric is not None and metric.kind == family.type else ():
            assert metric is not None
            if group and any(sample.labels.get(name, "") != group[name] for name in group):
                continue
            own = {name: value for name, value in sample.labels.items() if value}
            bounds = (_bound(own.get("le", "")),) if sample.name.endswith("_bucket") else ()
            if any(bound not in _bounds(metric) for bound in bounds):
                stale.add(metric)  # other buckets, of another version
            labels = tuple(own.get(name, "") for name in metric.labels)
            found[metric][sample.name, (*labels, *bounds)] = sample.value
    return {metric: samples for metric, samples in found.items() if metric not in stale}


def render(samples: Samples) -> bytes:
    """The samples in text format 0.0.4."""
    registry = CollectorRegistry()
    registry.register(_Collected(samples))
    return generate_latest(registry)


class _Collected(Collector):
    def __init__(self, samples: Samples) -> None:
        self._samples = samples

    def collect(self) -> Iterator[Family]:
        for metric in METRICS:
            if samples := self._samples.get(metric):
                family = Family(metric.name.removesuffix("_total"), metric.text, metric.kind)
                for (name, labels), value in samples.items():
                    names = (*metric.labels, "le")[: len(labels)]
                    family.add_sample(name, dict(zip(names, labels, strict=True)), value)
                yield family


def _bound(text: str) -> str:
    """A bound as Python writes it; others write 1 for 1.0."""
    return text if text == "+Inf" else str(float(text))


def _bounds(metric: MetricDefinition) -> tuple[str, ...]:
    return (*map(str, metric.buckets), "+Inf")


def add_to_file(path: Path, new: Samples, lock: Path) -> None:
    """Add the samples to those of a file, whole or not at all. `lock` is held by one process at a
    time. Raises ConfigError.
    """
    try:
        with locked(lock):
            content = render(merge(new, _read(path)))
            write_whole(path, content)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"metrics: {path} cannot be written: {getattr(error, 'strerror', None) or error}",
            code="telemetry-metrics",
            hint="set SHIPLINE_METRICS_FILE to a .prom file in the directory of the collector",
        ) from None


def _read(path: Path) -> Samples:
    try:
        return parse(read_bounded(path, _LIMIT).decode())
    except FileNotFoundError:
        return {}


class Pushgateway(Redacted, frozen=True):
    """A group of a Pushgateway: `labels` are its grouping key."""

    hidden: ClassVar = frozenset({"authorization"})

    url: Url
    all_metrics: Url
    labels: Mapping[str, str]
    authorization: str = ""

    @classmethod
    def parse(cls, text: str, pipeline: str) -> Self:
        """The group that an address names, `http://[user:password@]host/metrics/job/...`; without
        one, that of the job `shipline` and the pipeline. Raises ConfigError, which does not show
        the address: parts of a password may be anywhere in it.
        """
        try:
            parts = urlsplit(text)
            host = parts.netloc.rpartition("@")[2]
            address, group = parts.path.rstrip("/"), ""
            if "/metrics/job" in address:
                address, _, group = address.partition("/metrics/job")
                group = f"job{group}"
            else:
                group = _path({"job": JOB, "pipeline": pipeline})
            base = f"{parts.scheme}://{host}{address}/metrics"
            authorization = ""
            if parts.username is not None:
                user, password = unquote(parts.username), unquote(parts.password or "")
                authorization = Credentials(user, password).basic
            return cls(Url.parse(f"{base}/{group}"), Url.parse(base), _labels(group), authorization)
        except (ValueError, ShiplineError):
            raise ConfigError(
                "SHIPLINE_PUSHGATEWAY is not the address of a Pushgateway",
                code="telemetry-metrics",
                hint="write http://HOST:9091, or one with /metrics/job/JOB/LABEL/VALUE; in a login"
                " write / as %2F",
            ) from None

    def add(self, http: HttpClient, new: Samples) -> None:
        """Add the samples to those of the group. Raises RegistryError, AuthError, ValueError."""
        before = parse(self._call(http, "GET", self.all_metrics).decode(), self.labels)
        self._call(http, "PUT", self.url, render(merge(new, before)))

    def _call(self, http: HttpClient, method: str, url: Url, body: bytes = b"") -> bytes:
        headers = {"Content-Type": "text/plain; version=0.0.4"} if body else {}
        request = ClientRequest(method, url, headers, body).with_authorization(self.authorization)
        with closing(
            http.call(request, expect=(200, 202), operation="sending metrics", tries=1, redirects=0)
        ) as response:
            return response.content(_LIMIT)


def push(gateway: Pushgateway, http: HttpClient, new: Samples, spool: Path) -> None:
    """Add the samples, and those that could not be sent before, to a group; what cannot be sent now
    is kept in the directory `spool`. Raises RegistryError, AuthError, OSError, ValueError,
    TimeoutError.
    """
    name = hashlib.sha256(str(gateway.url).encode()).hexdigest()[:16]
    kept = spool / f"{name}.prom"
    with locked(spool / "metrics.lock"):
        waiting = merge(new, _read(kept))
        try:
            gateway.add(http, waiting)
        except BaseException:
            write_whole(kept, render(waiting))
            raise
        kept.unlink(missing_ok=True)


def _path(labels: Mapping[str, str]) -> str:
    """A grouping key in the path of a URL; values with a slash are in base64."""
    parts: list[str] = []
    for name, value in labels.items():
        if "/" in value or not value:
            encoded = base64.urlsafe_b64encode(value.encode()).decode() or "="
            parts += [f"{name}@base64", encoded]
        else:
            parts += [name, quote(value, safe="")]
    return "/".join(parts)


def _labels(path: str) -> dict[str, str]:
    """The labels of a grouping key. Raises ValueError."""
    parts = path.split("/")
    labels: dict[str, str] = {}
    for name, value in zip(parts[::2], parts[1::2], strict=True):
        plain, _, encoding = name.partition("@")
        labels[plain] = _from_base64(value) if encoding == "base64" else unquote(value)
    return labels


def _from_base64(text: str) -> str:
    return base64.urlsafe_b64decode(text.rstrip("=") + "=" * (-len(text.rstrip("=")) % 4)).decode()
