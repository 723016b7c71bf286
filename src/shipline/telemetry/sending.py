"""Where metrics go, as the environment says: SHIPLINE_METRICS_FILE and SHIPLINE_PUSHGATEWAY."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

from shipline.errors import ShiplineError
from shipline.events import Sink
from shipline.home import state_directory
from shipline.tasks import after_cancel
from shipline.telemetry.metrics import MetricValues, RunMetrics
from shipline.values import replace

FILE, GATEWAY = "SHIPLINE_METRICS_FILE", "SHIPLINE_PUSHGATEWAY"
_LIMIT_S = 3.0
Send = Callable[[MetricValues], None]


def open_metrics(environ: Mapping[str, str]) -> tuple[Sink, ...]:
    """The sinks that send the metrics of a run when it ends, within a few seconds; one for each
    place. Closing one raises ShiplineError, if that was not possible.
    """
    return tuple(RunMetrics(partial(_within_limit, send)) for send in _places(environ))


def send(values: MetricValues, environ: Mapping[str, str]) -> int:
    """Send the metrics to all places, and return the number of these. Raises ShiplineError."""
    places = [*_places(environ)]
    for place in places:
        _within_limit(place, values)
    return len(places)


def _within_limit(send: Send, values: MetricValues) -> None:
    try:
        with after_cancel(_LIMIT_S):
            send(values)
    except (OSError, ValueError) as error:  # TimeoutError is one
        raise ShiplineError(f"metrics were not sent: {error}", code="telemetry") from None


def _places(environ: Mapping[str, str]) -> Iterator[Send]:
    if path := environ.get(FILE):
        yield partial(_to_file, Path(path))
    if url := environ.get(GATEWAY):
        yield partial(_to_gateway, url, environ)


def _to_file(path: Path, values: MetricValues) -> None:
    from shipline.telemetry.prometheus import add_to_file, samples_of

    add_to_file(path, samples_of(values), _directory() / "metrics.lock")


def _to_gateway(url: str, environ: Mapping[str, str], values: MetricValues) -> None:
    from shipline.registry import NoKeychain, settings_from
    from shipline.registry.http import HttpClient
    from shipline.telemetry.prometheus import Pushgateway, push, samples_of

    pipeline = next((series.labels[0] for series in values), "")
    gateway = Pushgateway.parse(url, pipeline)
    settings = replace(settings_from(environ), connect_s=_LIMIT_S, read_s=_LIMIT_S)
    http = HttpClient(settings, NoKeychain(), tries=1)
    try:
        push(gateway, http, samples_of(values), _directory())
    finally:
        http.close()


def _directory() -> Path:
    """Where locks are, and what could not be sent."""
    directory = state_directory() / "telemetry"
    directory.mkdir(parents=True, exist_ok=True)
    return directory
