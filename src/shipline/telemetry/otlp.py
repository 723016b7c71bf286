"""The spans and log records of a run, for a receiver of OTLP."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from shipline.events import Attribute, Event, Finished, Started, Warned
from shipline.grpc.protobuf import fixed32, fixed64, integer, part, text
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
from shipline.telemetry.otlp_messages import CLIENT, INTERNAL, SERVER, attributes, span
from shipline.telemetry.receiver import OtlpReceiver

_SAMPLED = 1


class TraceSource:
    """The spans of a run, each when it has ended."""

    def __init__(self, run: TracedRun, environ: Mapping[str, str]) -> None:
        self._run = run
        self._receiver = OtlpReceiver("traces", environ, run.run)
        self._open: dict[int, Started] = {}
        self._warnings: dict[int, list[tuple[float, Mapping[str, Attribute]]]] = {}

    def take(self, event: Event) -> Iterator[bytes]:
        if isinstance(event, Started):
            self._open[event.span] = event
        elif isinstance(event, Warned):
            facts = {"message": event.message, "hint": event.hint}
            self._warnings.setdefault(event.span, []).append((event.at, facts))
        elif isinstance(event, Finished) and (started := self._open.pop(event.span, None)):
            yield from self._spans(started, event)

    def send(self, records: Sequence[bytes]) -> Iterator[int]:
        return self._receiver.send(records)

    def close(self) -> None:
        self._receiver.close()

    def _spans(self, started: Started, event: Finished) -> Iterator[bytes]:
        run, trace = self._run, self._run.trace
        if trace is None:
            return
        root = not started.parent
        if root:
            name, kind, parent = run_name(run), SERVER, trace.parent
            values = run_attributes(run, started.attributes)
        else:
            kind = CLIENT if is_request(started) else INTERNAL
            name, parent = started.name, trace.span(started.parent)
            values = step_attributes(started)
        own, times = trace.span(event.span), (started.at, event.at)
        yield span(
            name,
            own,
            parent,
            times,
            {**values, **end_attributes(event, root=root)},
            kind=kind,
            remote=root,
            warnings=self._warnings.pop(event.span, ()),
            error=event.error,
        )
        if root:
            for number, (skipped, facts) in enumerate(skipped_steps(event), 1):
                yield span(skipped, trace.span(-number), own, (event.at, event.at), facts)


class LogSource:
    """The log records of a run."""

    def __init__(self, run: TracedRun, environ: Mapping[str, str]) -> None:
        self._run = run
        self._log = RunLog()
        self._receiver = OtlpReceiver("logs", environ, run.run)
        self._common: dict[tuple[int, str, int], bytes] = {}

    def take(self, event: Event) -> Iterator[bytes]:
        for entry in self._log.entries(event):
            at = entry.at
            yield fixed64(1, at) + fixed64(11, at) + part(5, text(1, entry.text)) + self._of(entry)

    def send(self, records: Sequence[bytes]) -> Iterator[int]:
        return self._receiver.send(records)

    def close(self) -> None:
        self._receiver.close()

    def _of(self, entry: LogEntry) -> bytes:
        """What all entries of a step have in common that are of the same stream and severity."""
        key = (entry.span, entry.stream, entry.severity)
        if (found := self._common.get(key)) is None:
            found = self._common[key] = self._encoded(entry)
        return found

    def _encoded(self, entry: LogEntry) -> bytes:
        run, span = self._run, self._run.span(entry.span)
        values = {
            "cicd.pipeline.name": run.pipeline or run.kind,
            "cicd.pipeline.run.id": run.run,
            "cicd.pipeline.task.name": entry.step,
            "log.iostream": entry.stream,
        }
        found = integer(2, entry.severity) + text(3, SEVERITIES[entry.severity])
        found += attributes(6, {name: value for name, value in values.items() if value})
        if span is not None:
            found += fixed32(8, _SAMPLED if span.sampled else 0)
            found += part(9, bytes.fromhex(span.trace_id)) + part(10, bytes.fromhex(span.span_id))
        return found
