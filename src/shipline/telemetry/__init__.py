"""Runs of shipline as OpenTelemetry traces and logs, and as streams of Loki (docs/telemetry.md).

    trace = begin_trace(os.environ)
    with Stream(*displays, *open_telemetry(os.environ, trace), trace=trace) as stream:
        ...

Everything is asked for by environment variables: those of OpenTelemetry's specification, and
SHIPLINE_LOKI. Nothing here fails or slows a run.
"""

from __future__ import annotations

from collections.abc import Mapping

from shipline.events import Sink
from shipline.propagation import Trace, continue_from
from shipline.telemetry.sending import open_metrics
from shipline.telemetry.variables import asked, is_sampled


def begin_trace(environ: Mapping[str, str]) -> Trace | None:
    """The trace to give to the stream of a run: a new one, or the continuation of that in
    `environ`. None if traces are not exported; what the environment names stays current then.
    """
    parent = continue_from(environ)
    if not asked("traces", environ):
        return None
    trace = Trace.begin(parent)
    return Trace(trace.trace_id, trace.seed, is_sampled(trace, environ), parent)


def open_telemetry(environ: Mapping[str, str], trace: Trace | None) -> tuple[Sink, ...]:
    """The sinks that `environ` asks for; closing them takes a few seconds at most."""
    return open_metrics(environ)
