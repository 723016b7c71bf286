"""Where metrics go, as the environment says: SHIPLINE_METRICS_FILE and SHIPLINE_PUSHGATEWAY, and
those of deliveries over OTLP as well; those of runs are a target of the spool there (delivery.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from shipline.errors import ShiplineError
from shipline.events import Sink
from shipline.tasks import TaskGroup, after_cancel
from shipline.telemetry.metrics import MetricValues, RunMetrics, label
from shipline.telemetry.variables import asked
from shipline.values import replace

FILE, GATEWAY = "SHIPLINE_METRICS_FILE", "SHIPLINE_PUSHGATEWAY"
_LIMIT_S = 3.0  # without a byte; all places together have a second more, and fail once
Send = Callable[[MetricValues], None]
Warn = Callable[[str, str], object]


def open_metrics(
    environ: Mapping[str, str], *, directory: Path, pipeline: str, warn: Warn
) -> tuple[Sink, ...]:
    """The sink that sends the metrics of a run when it ends, within four seconds, if `environ`
    names a file or a Pushgateway. `directory` is the state directory; `warn` gets what was not
    sent, and what to do.
    """
    places = [*_places(environ, directory)]
    return (RunMetrics(label(pipeline), partial(_try, places, warn)),) if places else ()


def send(values: MetricValues, environ: Mapping[str, str], *, directory: Path, warn: Warn) -> int:
    """Send the metrics to all places that `environ` names, and return the number of these."""
    places = [*_places(environ, directory)]
    places += [partial(_to_otlp, environ)] if asked("metrics", environ) else []
    _try(places, warn, values)
    return len(places)


def _try(places: Sequence[Send], warn: Warn, values: MetricValues) -> None:
    def deliver(place: Send) -> None:
        try:
            place(values)
        except ShiplineError as error:
            warn(f"metrics were not sent: {error.message}", error.hint)
        except (OSError, ValueError) as error:
            warn(f"metrics were not sent: {error}", "")

    try:
        with after_cancel(_LIMIT_S + 1), TaskGroup() as group:
            for place in places:
                group.start(deliver, place)
    except TimeoutError as error:
        warn(f"metrics were not sent: {error}", "")


def _places(environ: Mapping[str, str], directory: Path) -> Iterator[Send]:
    spool = directory / "telemetry"
    if path := environ.get(FILE):
        yield partial(_to_file, Path(path), spool)
    if url := environ.get(GATEWAY):
        yield partial(_to_gateway, url, environ, spool)


def _to_file(path: Path, spool: Path, values: MetricValues) -> None:
    from shipline.telemetry.prometheus import add_to_file, samples_of

    spool.mkdir(parents=True, exist_ok=True)
    add_to_file(path, samples_of(values), spool / "metrics.lock")


def _to_gateway(url: str, environ: Mapping[str, str], spool: Path, values: MetricValues) -> None:
    from shipline.registry import NoKeychain, settings_from
    from shipline.registry.http import HttpClient
    from shipline.telemetry.prometheus import Pushgateway, push, samples_of

    spool.mkdir(parents=True, exist_ok=True)
    pipeline = next((series.labels[0] for series in values), "")
    gateway = Pushgateway.parse(url, pipeline)
    settings = replace(settings_from(environ), connect_s=_LIMIT_S, read_s=_LIMIT_S)
    http = HttpClient(settings, NoKeychain(), tries=1)
    try:
        push(gateway, http, samples_of(values), spool)
    finally:
        http.close()


def _to_otlp(environ: Mapping[str, str], values: MetricValues) -> None:
    from shipline.telemetry.otlp_metrics import encoded
    from shipline.telemetry.receiver import OtlpReceiver

    receiver = OtlpReceiver("metrics", environ)
    try:
        for _ in receiver.send(encoded(values)):
            pass
    finally:
        receiver.close()
