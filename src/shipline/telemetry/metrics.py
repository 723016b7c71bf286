"""The metrics of runs and deliveries: the one table of their names, and the sink that takes them
from the events of a run.

Attributes of Started used here: those of `observe.board`, and `waited`, the seconds that a step was
ready before it began. Attributes of Finished:
`size` in bytes of a transfer, `tags` that were set, `gate.NAME` with its outcome,
`vulnerabilities.SEVERITY.FIXABLE` with a count, `image.size|TARGET|PLATFORM` in bytes.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Literal, NamedTuple

from msgspec import Struct

from shipline.events import Attribute, Event, Finished, Progress, Started

_SECONDS = (0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)
_AGES = (300.0, 900.0, 3600.0, 14400.0, 43200.0, 86400.0, 259200.0, 604800.0, 2592000.0)  # seconds


class MetricDefinition(Struct, frozen=True):
    """A metric as Prometheus names it, with the upper bounds of a histogram's `buckets`. The first
    label is the pipeline, whose values are `complete` if they say all that there is, and not what
    one run adds to them.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    text: str
    labels: tuple[str, ...]
    complete: bool = False
    buckets: tuple[float, ...] = ()

    @property
    def unit(self) -> str:
        """The unit as UCUM has it: seconds, bytes, or none, since 1 is that of ratios."""
        words = self.name.split("_")
        return "s" if "seconds" in words else "By" if "bytes" in words else ""

    @property
    def semantic_name(self) -> str:
        """The name in OpenTelemetry, from which OTLP receivers derive the one here again."""
        name = self.name.removesuffix("_total").removesuffix("_seconds").removesuffix("_bytes")
        return name.replace("_", ".")


def _counter(name: str, text: str, *labels: str, complete: bool = False) -> MetricDefinition:
    return MetricDefinition(f"shipline_{name}", "counter", text, ("pipeline", *labels), complete)


def _gauge(name: str, text: str, *labels: str, complete: bool = True) -> MetricDefinition:
    return MetricDefinition(f"shipline_{name}", "gauge", text, ("pipeline", *labels), complete)


def _histogram(name: str, text: str, *labels: str, complete: bool = False) -> MetricDefinition:
    buckets = _AGES if complete else _SECONDS
    return MetricDefinition(
        f"shipline_{name}", "histogram", text, ("pipeline", *labels), complete, buckets
    )


RUN = _histogram("run_duration_seconds", "Runs, from start to end.", "kind", "result")
RUN_ERRORS = _counter("run_errors_total", "Failed runs.", "kind", "reason", "code")
RUN_LAST = _gauge(
    "run_last_timestamp_seconds", "When the last run ended.", "kind", "result", complete=False
)
STAGE = _histogram("stage_duration_seconds", "Steps of a pipeline.", "stage", "result")
WAIT = _histogram("step_wait_seconds", "Steps that were ready, until they began.", "stage")
BUILD = _histogram("build_duration_seconds", "Builds for a platform.", "platform", "cache")
BUILD_STEPS = _counter("build_steps_total", "Dockerfile steps.", "platform", "cache")
BUILD_STEP = _histogram("build_step_duration_seconds", "Dockerfile steps run.", "platform", "stage")
LAST_STEP = _gauge(
    "build_last_step_seconds", "Dockerfile steps of the last build.", "platform", "stage", "step"
)
IMAGE_SIZE = _gauge("image_size_bytes", "Compressed size of the image.", "target", "platform")
TRANSFERRED = _counter("transferred_bytes_total", "Bytes to and from registries.", "direction")
TRANSFERS = _histogram("transfer_duration_seconds", "Blobs to and from registries.", "direction")
TAGS = _counter("published_tags_total", "Tags that were set.")
GATES = _counter("gate_results_total", "Gates judged.", "gate", "result")
VULNERABILITIES = _gauge(
    "vulnerabilities", "Vulnerabilities in the last image.", "severity", "fixable"
)
DEPLOYMENTS = _counter(
    "deployments_total", "Deployments in the history.", "environment", "action", complete=True
)
FAILED_DEPLOYMENTS = _counter(
    "failed_deployments_total",
    "Deployments that were rolled back or failed their checks.",
    "environment",
    complete=True,
)
LEAD_TIME = _histogram(
    "lead_time_seconds", "From a commit to its deployment.", "environment", complete=True
)
RESTORE_TIME = _histogram(
    "restore_time_seconds", "From a failed deployment to a good one.", "environment", complete=True
)
PROMOTION = _histogram(
    "promotion_duration_seconds",
    "From the deployment before an environment to that in it.",
    "environment",
    complete=True,
)
ENVIRONMENT = _gauge(
    "environment_deployed_timestamp_seconds",
    "When what an environment has was deployed.",
    "environment",
    "version",
    "digest",
)
CHANGED_BY_HAND = _gauge(
    "environment_changed_by_hand", "Whether files differ from what was deployed.", "environment"
)
STOPPED = _gauge("environment_stopped", "Whether promotions are stopped.", "environment")

METRICS = (
    RUN, RUN_ERRORS, RUN_LAST, STAGE, WAIT, BUILD, BUILD_STEPS, BUILD_STEP, LAST_STEP, IMAGE_SIZE,
    TRANSFERRED, TRANSFERS, TAGS, GATES, VULNERABILITIES, DEPLOYMENTS, FAILED_DEPLOYMENTS,
    LEAD_TIME, RESTORE_TIME, PROMOTION, ENVIRONMENT, CHANGED_BY_HAND, STOPPED,
)  # fmt: skip
"""All of them; docs/metrics.md has the same table."""


class Series(NamedTuple):
    """One metric with the values of its labels, in their order."""

    metric: MetricDefinition
    labels: tuple[str, ...]


class MetricValues:
    """What was counted and measured; of a histogram all single values."""

    def __init__(self) -> None:
        self.numbers: defaultdict[Series, float] = defaultdict(float)
        self.observed: defaultdict[Series, list[float]] = defaultdict(list)

    def add(self, metric: MetricDefinition, *labels: str, by: float = 1.0) -> None:
        self.numbers[Series(metric, labels)] += by

    def set(self, metric: MetricDefinition, *labels: str, to: float) -> None:
        self.numbers[Series(metric, labels)] = float(to)

    def observe(self, metric: MetricDefinition, *labels: str, value: float) -> None:
        self.observed[Series(metric, labels)].append(max(value, 0.0))

    def __iter__(self) -> Iterator[Series]:
        yield from self.numbers
        yield from self.observed


REASONS: Mapping[int, str] = {
    **dict.fromkeys((2, 3, 4), "configuration"),
    5: "command",
    **dict.fromkeys((9, 11), "policy"),
    **dict.fromkeys((6, 7, 8, 10, 12, 13, 14), "infrastructure"),
    **dict.fromkeys((15, 17), "verification"),
}
"""Why a run fails, by its exit code (errors.py); others are bugs."""
_FAILURES = ("command", "policy", "verification")
_WAITING, _CANCELLED = 16, 130
_BUILDKIT = re.compile(r"\[(?:(\S+/\S+) )?(?:(\S+) )?\s*(\d+/\d+)\] (.*)", re.DOTALL)
_DIRECTIONS = {"upload": "upload", "pull": "download", "download": "download"}


def result_of(event: Finished) -> str:
    """The result of a span in the words of `cicd.pipeline.result`: where the work itself is not
    good it is a failure, where it could not be done an error.
    """
    if not event.error or event.exit_code == _WAITING:
        return "success"
    if event.exit_code == _CANCELLED:
        return "cancellation"
    return "failure" if REASONS.get(event.exit_code) in _FAILURES else "error"


def label(pipeline: str) -> str:
    """The value of the label: the last part of the first name."""
    return pipeline.partition(",")[0].rpartition("/")[2]


class _Place(NamedTuple):
    """Where a step is in a Dockerfile, `number` as in 2/3, and its text."""

    platform: str
    stage: str
    number: str
    name: str


def _of_dockerfile(started: Started) -> _Place | None:
    """None for other steps. BuildKit has it in the name: `[linux/amd64 build 2/3] RUN make`."""
    values = (str(started.attributes.get(name, "")) for name in ("platform", "stage", "number"))
    platform, stage, number = values
    if platform or number:
        return _Place(platform, stage, number, started.name)
    match = _BUILDKIT.match(started.name)
    return _Place(*(text or "" for text in match.groups())) if match else None


class _Platform(Struct):
    """What was built for one platform: when, and how many steps of it came from the cache."""

    started: float
    finished: float
    cached: int = 0
    run: int = 0

    @property
    def cache(self) -> str:
        return "partial" if self.cached and self.run else "full" if self.cached else "none"


class RunMetrics:
    """A sink that measures a run of a pipeline, and gives what it found to `send` when it is
    closed.
    """

    def __init__(self, pipeline: str, send: Callable[[MetricValues], None]) -> None:
        self._pipeline = pipeline
        self._send = send
        self._values = MetricValues()
        self._open: dict[int, Started] = {}
        self._moved: dict[int, int] = {}
        self._platforms: dict[str, _Platform] = {}
        self.root = 0  # the span of the run

    def __call__(self, event: Event) -> None:
        match event:
            case Started():
                self._open[event.span] = event
                if event.parent == 0 and "kind" not in event.attributes:
                    self.root = event.span
            case Progress():
                self._moved[event.span] = event.current
            case Finished() if started := self._open.pop(event.span, None):
                self._finish(started, event)

    def close(self) -> None:
        if not self.root:
            return
        for platform, found in self._platforms.items():
            seconds = found.finished - found.started
            self._observe(BUILD, platform, found.cache, value=seconds)
        self._send(self._values)

    def _finish(self, started: Started, event: Finished) -> None:
        kind, seconds = str(started.attributes.get("kind", "")), event.at - started.at
        if "vertex" in started.attributes and (found := _of_dockerfile(started)):
            self._step(found, started, event)
        elif kind == "run" and started.parent == self.root and "stage" in started.attributes:
            stage = str(started.attributes["stage"])
            self._observe(STAGE, stage, result_of(event), value=seconds)
        elif kind in _DIRECTIONS:
            self._transfer(_DIRECTIONS[kind], started, event)
        elif kind == "tag" and not event.error:
            self._add(TAGS)
        elif started.span == self.root:
            self._run(started, event)
        if "waited" in started.attributes:
            stage = str(started.attributes.get("stage", ""))
            self._observe(WAIT, stage, value=float(started.attributes["waited"]))
        for name, value in event.attributes.items():
            self._noted(name, value)

    def _run(self, started: Started, event: Finished) -> None:
        kind, result = started.name, result_of(event)
        self._observe(RUN, kind, result, value=event.at - started.at)
        self._values.set(RUN_LAST, self._pipeline, kind, result, to=event.at)
        if result in ("failure", "error"):
            reason = REASONS.get(event.exit_code, "bug")
            self._add(RUN_ERRORS, kind, reason, event.code or "bug")

    def _step(self, place: _Place, started: Started, event: Finished) -> None:
        """A step of a Dockerfile."""
        platform, stage, number, name = place
        if event.error:
            return
        whole = self._platforms.setdefault(platform, _Platform(started.at, event.at))
        whole.finished = max(whole.finished, event.at)
        whole.cached += event.cached
        whole.run += not event.cached
        seconds = event.at - started.at
        self._add(BUILD_STEPS, platform, "hit" if event.cached else "miss")
        if not event.cached:
            self._observe(BUILD_STEP, platform, stage, value=seconds)
        step = " ".join(filter(None, (number, name.partition(" ")[0])))
        self._values.set(LAST_STEP, self._pipeline, platform, stage, step, to=seconds)

    def _transfer(self, direction: str, started: Started, event: Finished) -> None:
        size = event.attributes.get("size", self._moved.pop(event.span, 0))
        self._add(TRANSFERRED, direction, by=float(size))
        self._observe(TRANSFERS, direction, value=event.at - started.at)

    def _noted(self, name: str, value: Attribute) -> None:
        kind, *words = name.split("|" if "|" in name else ".")
        match kind, words:
            case "tags", []:
                self._add(TAGS, by=float(value))
            case "gate", [*gate]:
                self._add(GATES, ".".join(gate), str(value))
            case "vulnerabilities", [severity, fixable]:
                series = VULNERABILITIES, self._pipeline, severity, fixable
                self._values.set(*series, to=float(value))
            case "image.size", [target, platform]:
                self._values.set(IMAGE_SIZE, self._pipeline, target, platform, to=float(value))

    def _add(self, metric: MetricDefinition, *labels: str, by: float = 1.0) -> None:
        self._values.add(metric, self._pipeline, *labels, by=by)

    def _observe(self, metric: MetricDefinition, *labels: str, value: float) -> None:
        self._values.observe(metric, self._pipeline, *labels, value=value)
