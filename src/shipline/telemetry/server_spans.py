"""Spans of a node: of the requests that it answers, and of what it replicates.

A span is a few values in a bounded queue; every five seconds a thread makes spans of the SDK of
them and exports these. That costs a hundred times as much as to queue it, so the queue bounds it:
OTEL_BSP_MAX_QUEUE_SIZE, 1024 by default, of which requests of clients without a trace get a fourth.
What does not fit, or is not taken by the receiver, is dropped.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from shipline.errors import Cancelled, ShiplineError
from shipline.events import Attribute
from shipline.propagation import SpanContext, Trace
from shipline.tasks import TaskGroup, on_cancel, sleep
from shipline.telemetry.sdk import check_installed
from shipline.telemetry.variables import asked, is_sampled, positive

if TYPE_CHECKING:
    from shipline.telemetry.otlp import Spans

_log = logging.getLogger(__name__)
_QUEUE, _WITHOUT_PARENT = 1024, 4  # spans that wait for the next export; the part of those
_DELAY_MS = 5000
_BATCH = 512
_LAST_S = 2.0


class ServerSpan(Struct, frozen=True):
    """A span that has ended; `started` is Unix time in seconds."""

    own: SpanContext
    parent: SpanContext | None
    name: str
    started: float
    seconds: float
    attributes: Mapping[str, Attribute]
    error: str = ""
    is_server: bool = True


class ServerSpans:
    """Records spans and exports them. Safe to use from any thread."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        """Raises ShiplineError if an exporter cannot be used."""
        from shipline.telemetry.otlp import Spans
        from shipline.telemetry.sdk import load_exporters

        self._environ = environ
        self._delay_s = positive("OTEL_BSP_SCHEDULE_DELAY", environ, _DELAY_MS) / 1000
        self._limit = positive("OTEL_BSP_MAX_QUEUE_SIZE", environ, _QUEUE)
        self._exporters: list[Any] = load_exporters("traces", environ)
        self._spans: Spans = Spans(environ)
        self._waiting: deque[ServerSpan] = deque()
        self._failed = False

    def begin(self, parent: SpanContext | None) -> SpanContext | None:
        """The span of work that begins now, to be given to `end`; None if it is not recorded."""
        waiting = len(self._waiting)
        if parent is None:
            if waiting * _WITHOUT_PARENT >= self._limit:
                return None
            trace = Trace(os.urandom(16).hex(), "")
            return trace.span(0) if is_sampled(trace, self._environ) else None
        trace = Trace(parent.trace_id, "", parent=parent)
        if waiting >= self._limit or not is_sampled(trace, self._environ):
            return None
        return SpanContext(parent.trace_id, os.urandom(8).hex(), True, parent.state)

    def end(self, span: ServerSpan) -> None:
        """Record a span that `begin` returned."""
        self._waiting.append(span)

    def start(self, group: TaskGroup) -> None:
        """Export in the background until the scope of `group` is cancelled."""
        group.start(self._run)

    def _run(self) -> None:
        try:
            while True:
                sleep(self._delay_s)
                with on_cancel(self._shut_down):
                    self.flush()
        except Cancelled:
            last = threading.Thread(target=self.flush, daemon=True)
            last.start()
            last.join(_LAST_S)

    def flush(self) -> None:
        """Export what waits. Never raises."""
        from shipline.telemetry.otlp import export

        try:
            left = len(self._waiting)
            while left:
                for _ in range(min(left, _BATCH)):
                    self._make(self._waiting.popleft())
                    left -= 1
                export(self._exporters, self._spans.ended())
                self._failed = False
        except Exception as error:
            self._waiting.clear()
            if not self._failed:
                text = error.message if isinstance(error, ShiplineError) else repr(error)
                _log.warning("traces were not delivered, and are dropped: %s", text)
            self._failed = True

    def _make(self, span: ServerSpan) -> None:
        from opentelemetry.trace import Status, StatusCode

        from shipline.telemetry.otlp import INTERNAL, SERVER, nanoseconds

        made = self._spans.start(
            span.name,
            span.own,
            span.parent,
            at=span.started,
            kind=SERVER if span.is_server else INTERNAL,
            attributes=span.attributes,
        )
        if span.error:
            made.set_status(Status(StatusCode.ERROR, span.error))
        made.end(nanoseconds(span.started + span.seconds))

    def _shut_down(self) -> None:
        for exporter in self._exporters:
            exporter.shutdown()


def open_server_spans(environ: Mapping[str, str]) -> ServerSpans | None:
    """The spans of a node, if `environ` asks for traces. Raises ShiplineError if the SDK is
    missing, or an exporter cannot be used.
    """
    if not asked("traces", environ):
        return None
    check_installed()
    return ServerSpans(environ)
