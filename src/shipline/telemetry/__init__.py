"""Runs of shipline as OpenTelemetry traces and logs, and as streams of Loki (docs/telemetry.md).

    trace = begin_trace(os.environ)
    with Stream(*displays, *open_telemetry(os.environ, trace), trace=trace) as stream:
        ...

Everything is asked for by environment variables: those of OpenTelemetry's specification, and
SHIPLINE_LOKI. Nothing here fails or slows a run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from shipline.events import Sink
from shipline.propagation import Trace, continue_from, current
from shipline.telemetry.variables import asked, ignored, is_sampled, wanted

_VARIABLES = ("OTEL_", "SHIPLINE_LOKI", "SHIPLINE_METRICS_FILE", "SHIPLINE_PUSHGATEWAY")


def begin_trace(environ: Mapping[str, str], follows: str = "") -> Trace | None:
    """The trace to give to the stream of a run: a new one, or the continuation of that in
    `environ`, else of the traceparent `follows`. None if traces are not exported; what is
    continued stays current then.
    """
    parent = continue_from(environ, follows)
    if not asked("traces", environ):
        return None
    trace = Trace.begin(parent)
    return Trace(trace.trace_id, trace.seed, is_sampled(trace, environ), parent)


def open_telemetry(
    environ: Mapping[str, str],
    trace: Trace | None,
    *,
    directory: Path,
    run: str,
    kind: str,
    pipeline: str,
    warn: Callable[[str, str], object],
) -> tuple[Sink, ...]:
    """The sinks that `environ` asks for, of metrics too; closing them takes four seconds each at
    most. `directory` is the state directory; `warn` gets what was not delivered, and what to do.
    """
    if not any(name.startswith(_VARIABLES) for name in environ):
        return ()
    from shipline.telemetry.sending import open_metrics

    if problems := "; ".join(ignored(environ)):
        warn(problems, "")
    metrics = open_metrics(environ, directory=directory, pipeline=pipeline, warn=warn)
    recorded = trace is not None and trace.sampled
    targets = [name for name in wanted(environ) if name != "traces" or recorded]
    if not targets:
        return metrics
    from shipline.telemetry.conventions import TracedRun, job_url
    from shipline.telemetry.delivery import TelemetrySink

    traced = TracedRun(run, kind, pipeline, job_url(environ), trace, current())
    try:
        sink = TelemetrySink(directory / "telemetry", traced, targets, environ, warn)
    except OSError as error:
        warn(f"there is no telemetry of this run: {error}", "")
        return metrics
    return (*metrics, sink)
