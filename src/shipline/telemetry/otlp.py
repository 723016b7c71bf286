"""Spans and log records of OpenTelemetry's SDK out of events, and their export."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.context import Context
from opentelemetry.sdk._logs import LoggerProvider, LogRecordProcessor, ReadWriteLogRecord
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
    set_span_in_context,
)
from opentelemetry.trace import SpanContext as SdkContext

from shipline import __version__
from shipline.errors import ShiplineError
from shipline.events import Attribute, Event, Finished, Started, Warned
from shipline.propagation import SpanContext
from shipline.telemetry.conventions import (
    SEVERITIES,
    LogEntry,
    RunLog,
    TracedRun,
    end_attributes,
    is_request,
    run_attributes,
    run_name,
    skipped_steps,
    step_attributes,
)
from shipline.telemetry.sdk import load_exporters, resource

SERVER, CLIENT, INTERNAL = SpanKind.SERVER, SpanKind.CLIENT, SpanKind.INTERNAL


class _GivenIds(RandomIdGenerator):
    """The identifiers that the next span gets."""

    trace_id, span_id = 0, 0

    def generate_trace_id(self) -> int:
        return self.trace_id

    def generate_span_id(self) -> int:
        return self.span_id


class Spans(SpanProcessor):
    """Spans with given identifiers, as far as the sampler of the environment keeps them."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._ids = _GivenIds()
        self._ended: list[ReadableSpan] = []
        provider = TracerProvider(
            resource=resource(environ), id_generator=self._ids, shutdown_on_exit=False
        )
        provider.add_span_processor(self)
        self._tracer = provider.get_tracer("shipline", __version__)

    def start(
        self,
        name: str,
        own: SpanContext,
        parent: SpanContext | None,
        *,
        at: float,
        kind: SpanKind = INTERNAL,
        attributes: Mapping[str, Attribute] | None = None,
    ) -> Any:
        """An open span of the SDK; times are in seconds of Unix time."""
        self._ids.trace_id, self._ids.span_id = int(own.trace_id, 16), int(own.span_id, 16)
        return self._tracer.start_span(
            name,
            context_of(parent) if parent else Context(),
            kind=kind,
            attributes=attributes,
            start_time=nanoseconds(at),
        )

    def on_end(self, span: ReadableSpan) -> None:
        self._ended.append(span)

    def ended(self) -> list[ReadableSpan]:
        """The spans that ended since the last call."""
        ended, self._ended = self._ended, []
        return ended


class ExportFailed(ShiplineError):
    """Telemetry was not delivered."""

    code = "telemetry"


class TraceSource:
    """The spans of a run."""

    def __init__(self, run: TracedRun, environ: Mapping[str, str]) -> None:
        self._run = run
        self._spans = Spans(environ)
        self._exporters = load_exporters("traces", environ)
        self._open: dict[int, Span] = {}
        self._root = 0

    def take(self, event: Event) -> Iterator[ReadableSpan]:
        if isinstance(event, Started):
            self._start(event)
        elif isinstance(event, Warned) and (span := self._open.get(event.span)):
            facts = {"message": event.message, "hint": event.hint}
            span.add_event("warning", facts, nanoseconds(event.at))
        elif isinstance(event, Finished) and (span := self._open.pop(event.span, None)):
            root = event.span == self._root
            span.set_attributes(end_attributes(event, root=root))
            if event.error:
                span.set_status(Status(StatusCode.ERROR, event.error))
            span.end(nanoseconds(event.at))
            if root:
                self._skip(event)
        yield from self._spans.ended()

    def send(self, records: Sequence[ReadableSpan]) -> None:
        export(self._exporters, records)

    def close(self) -> None:
        for exporter in self._exporters:
            exporter.shutdown()

    def _skip(self, event: Finished) -> None:
        if (trace := self._run.trace) is None:
            return
        root, at = trace.span(event.span), event.at
        for number, (name, attributes) in enumerate(skipped_steps(event), 1):
            own = trace.span(-number)
            self._spans.start(name, own, root, at=at, attributes=attributes).end(nanoseconds(at))

    def _start(self, event: Started) -> None:
        run, trace = self._run, self._run.trace
        if trace is None:
            return
        parent: SpanContext | None
        if event.parent:
            name, attributes = event.name, step_attributes(event)
            parent = trace.span(event.parent)
            kind = CLIENT if is_request(event) else INTERNAL
        else:
            self._root = event.span
            name, attributes = run_name(run), run_attributes(run, event.attributes)
            parent, kind = trace.parent, SERVER
        own = trace.span(event.span)
        self._open[event.span] = self._spans.start(
            name, own, parent, at=event.at, kind=kind, attributes=attributes
        )


class LogSource(LogRecordProcessor):
    """The log records of a run."""

    def __init__(self, run: TracedRun, environ: Mapping[str, str]) -> None:
        self._run = run
        self._log = RunLog()
        self._exporters = load_exporters("logs", environ)
        self._records: list[ReadWriteLogRecord] = []
        provider = LoggerProvider(resource(environ), shutdown_on_exit=False)
        provider.add_log_record_processor(self)
        self._logger = provider.get_logger("shipline", __version__)

    def take(self, event: Event) -> Iterator[ReadWriteLogRecord]:
        for entry in self._log.entries(event):
            self._emit(entry)
        records, self._records = self._records, []
        yield from records

    def send(self, records: Sequence[ReadWriteLogRecord]) -> None:
        export(self._exporters, records)

    def close(self) -> None:
        for exporter in self._exporters:
            exporter.shutdown()

    def on_emit(self, log_record: ReadWriteLogRecord) -> None:
        self._records.append(log_record)

    def shutdown(self) -> None:
        return None

    def force_flush(self, timeout_millis: int = 0) -> bool:
        return True

    def _emit(self, entry: LogEntry) -> None:
        run, span = self._run, self._run.span(entry.span)
        attributes = {
            "cicd.pipeline.name": run.pipeline or run.kind,
            "cicd.pipeline.run.id": run.run,
            "cicd.pipeline.task.name": entry.step,
            "log.iostream": entry.stream,
        }
        self._logger.emit(
            LogRecord(
                timestamp=entry.at,
                observed_timestamp=entry.at,
                context=context_of(span) if span else Context(),
                severity_text=SEVERITIES[entry.severity],
                severity_number=SeverityNumber(entry.severity),
                body=entry.text,
                attributes={name: text for name, text in attributes.items() if text},
            )
        )


def export(exporters: Sequence[Any], records: Any) -> None:
    """Send to all exporters. Raises ExportFailed if one could not; the SDK does not say why."""
    for exporter in exporters:
        if exporter.export(records).name != "SUCCESS":
            raise ExportFailed("the receiver refused them, or could not be reached")


def context_of(span: SpanContext) -> Context:
    """A span of another process, or one that is not open here, as the SDK has it."""
    flags = TraceFlags(TraceFlags.SAMPLED if span.sampled else TraceFlags.DEFAULT)
    state = TraceState.from_header([span.state]) if span.state else None
    ids = int(span.trace_id, 16), int(span.span_id, 16)
    return set_span_in_context(NonRecordingSpan(SdkContext(*ids, True, flags, state)), Context())


def nanoseconds(seconds: float) -> int:
    return int(seconds * 1_000_000) * 1000
