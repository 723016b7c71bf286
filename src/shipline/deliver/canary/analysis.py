"""What measurements say of a canary: a verdict for each, and one for a step."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from shipline.deliver.canary.queries import NoData, QueryClient, QueryFailed, filled_in
from shipline.deliver.canary.section import Analysis, Metric
from shipline.tasks import TaskGroup, sleep

_INTERVAL_S = 10.0  # without anything to measure


class CanaryVerdict(StrEnum):
    """Of a measurement, or of a step."""

    PASS = "pass"
    FAIL = "fail"
    NO_DATA = "no_data"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class MetricResult:
    """One verdict on one metric, and what it rests on."""

    metric: str
    verdict: CanaryVerdict
    detail: str

    def __str__(self) -> str:
        return f"{self.metric}: {self.verdict}: {self.detail}"


def measure(
    metric: Metric, client: QueryClient, canary: Mapping[str, str], stable: Mapping[str, str]
) -> MetricResult:
    """Ask for a metric, and compare it with its limits. `canary` and `stable` have the values of
    variables in the queries for each version.
    """

    def ask(query: str, values: Mapping[str, str]) -> float:
        return client.ask(metric.language, filled_in(query, values), str(metric.window))

    def require_samples(values: Mapping[str, str]) -> None:
        if metric.samples and (count := ask(metric.samples, values)) < metric.min_samples:
            raise NoData(f"{count:g} samples of {metric.min_samples}")

    try:
        require_samples(canary)
        value, base = ask(metric.query, canary), None
        if metric.is_relative:
            require_samples(stable)
            base = ask(metric.baseline, canary) if metric.baseline else ask(metric.query, stable)
    except NoData as error:
        return MetricResult(metric.name, CanaryVerdict.NO_DATA, str(error))
    except QueryFailed as error:
        return MetricResult(metric.name, CanaryVerdict.ERROR, str(error))
    broken = _broken_limits(metric, value, base)
    shown = f"{value:.4g}" + ("" if base is None else f", stable {base:.4g}")
    verdict = CanaryVerdict.FAIL if broken else CanaryVerdict.PASS
    return MetricResult(metric.name, verdict, "; ".join([shown, *broken]))


def _broken_limits(metric: Metric, value: float, base: float | None) -> list[str]:
    broken = []
    if metric.max is not None and value > metric.max:
        broken.append(f"more than {metric.max:g}")
    if metric.min is not None and value < metric.min:
        broken.append(f"less than {metric.min:g}")
    if base is not None:
        if metric.max_ratio is not None and value > base * metric.max_ratio:
            broken.append(f"more than {metric.max_ratio:g} times the stable version's")
        if metric.max_increase is not None and value - base > metric.max_increase:
            broken.append(f"more than {metric.max_increase:g} above the stable version's")
    return broken


@dataclass(slots=True)
class Tally:
    """The measurements of one metric during a step."""

    last: MetricResult | None = None
    decided: int = 0
    failures: int = 0
    errors: int = 0  # one after the other

    def add(self, measurement: MetricResult) -> None:
        self.last = measurement
        decided = measurement.verdict in (CanaryVerdict.PASS, CanaryVerdict.FAIL)
        self.decided += decided
        self.failures += measurement.verdict is CanaryVerdict.FAIL
        self.errors = self.errors + 1 if measurement.verdict is CanaryVerdict.ERROR else 0

    def verdict(self, analysis: Analysis) -> CanaryVerdict:
        """FAIL with too many failures; NO_DATA or ERROR while more measurements are needed."""
        if self.failures > analysis.failure_limit:
            return CanaryVerdict.FAIL
        if self.last is None:
            return CanaryVerdict.NO_DATA
        if self.last.verdict in (CanaryVerdict.NO_DATA, CanaryVerdict.ERROR):
            return self.last.verdict
        if self.last.verdict is CanaryVerdict.FAIL or self.decided < analysis.count:
            return CanaryVerdict.NO_DATA
        return CanaryVerdict.PASS

    def has_too_many_errors(self, analysis: Analysis) -> bool:
        return analysis.error_limit is not None and self.errors > analysis.error_limit


@dataclass(frozen=True, slots=True)
class StepVerdict:
    """The verdict on a step, and the measurements that it rests on."""

    verdict: CanaryVerdict
    reason: str


def watch(
    analysis: Analysis | None,
    measurements: Callable[[], Sequence[MetricResult]],
    *,
    hold_s: float,
    on_measured: Callable[[Sequence[MetricResult]], object] = lambda _: None,
    paused: Callable[[], bool] = lambda: False,
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], None] = sleep,
) -> StepVerdict:
    """The verdict on a step that is held for `hold_s` at least, measured at each interval.

    It passes when the hold is over, each metric has `count` measurements with a verdict, and its
    last one passed. It fails with more failures than `failure-limit`, errs with more errors one
    after the other than `error-limit`, and has the verdict of the moment at the deadline.
    Otherwise it is held for longer, and while it is `paused`, which moves the deadline.
    """
    over = clock() + hold_s
    if analysis is None:
        while (left_s := over - clock()) > 0 or paused():
            pause(min(left_s, _INTERVAL_S) if left_s > 0 else _INTERVAL_S)
            on_measured(())
        return StepVerdict(CanaryVerdict.PASS, "")
    tallies = {metric.name: Tally() for metric in analysis.metrics}
    while True:
        pause(analysis.interval.seconds)
        made = measurements()
        for measurement in made:
            tallies[measurement.metric].add(measurement)
        on_measured(made)
        verdicts = {name: tally.verdict(analysis) for name, tally in tallies.items()}
        failed = [name for name, verdict in verdicts.items() if verdict is CanaryVerdict.FAIL]
        if failed:
            return StepVerdict(CanaryVerdict.FAIL, _reasons(tallies, failed))
        wrong = [name for name, tally in tallies.items() if tally.has_too_many_errors(analysis)]
        if wrong:
            return StepVerdict(CanaryVerdict.ERROR, _reasons(tallies, wrong))
        waiting = [name for name, verdict in verdicts.items() if verdict is not CanaryVerdict.PASS]
        if clock() < over:
            continue
        if paused():
            over = clock()
        elif not waiting:
            return StepVerdict(CanaryVerdict.PASS, "; ".join(map(str, made)))
        elif analysis.deadline and clock() >= over + analysis.deadline.seconds:
            return StepVerdict(
                verdicts[waiting[0]], f"{_reasons(tallies, waiting)}, at the deadline"
            )


def _reasons(tallies: Mapping[str, Tally], names: Sequence[str]) -> str:
    return "; ".join(str(tallies[name].last) for name in names)


def measure_all(
    analysis: Analysis,
    clients: Mapping[str, QueryClient],
    canary: Mapping[str, str],
    stable: Mapping[str, str],
) -> list[MetricResult]:
    """A measurement of each metric, all at once; `clients` by language."""
    with TaskGroup() as group:
        tasks = []
        for metric in analysis.metrics:
            window = {"window": str(metric.window)}
            versions = ({**canary, **window}, {**stable, **window})
            tasks.append(group.start(measure, metric, clients[metric.language], *versions))
    return [task.result() for task in tasks]
