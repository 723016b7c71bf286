"""Spans of a node: of the requests that it answers, and of what it replicates.

A span is a few values in a bounded queue; every five seconds a thread encodes and exports them.
That costs many times as much as to queue them, so the queue bounds it:
OTEL_BSP_MAX_QUEUE_SIZE, 1024 by default, of which requests of clients without a trace get a fourth.
What does not fit, or is not taken by the receiver, is dropped.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Mapping

from msgspec import Struct

from shipline.errors import Cancelled, ShiplineError
from shipline.events import Attribute
from shipline.propagation import SpanContext, Trace
from shipline.tasks import TaskGroup, sleep
from shipline.telemetry.otlp_messages import INTERNAL, SERVER, span
from shipline.telemetry.receiver import OtlpReceiver
from shipline.telemetry.variables import asked, ignored, is_sampled, positive

_SERVICE = "shipline-registry"
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
        """Raises ShiplineError if the receiver cannot be used."""
        self._environ = environ
        self._delay_s = positive("OTEL_BSP_SCHEDULE_DELAY", environ, _DELAY_MS) / 1000
        self._limit = positive("OTEL_BSP_MAX_QUEUE_SIZE", environ, _QUEUE)
        self._receiver = OtlpReceiver("traces", environ, os.urandom(16).hex(), _SERVICE)
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
                self.flush()
        except Cancelled:
            last = threading.Thread(target=self.flush, daemon=True)
            last.start()
            last.join(_LAST_S)

    def flush(self) -> None:
        """Export what waits. Never raises."""
        try:
            left = len(self._waiting)
            while left:
                size = min(left, _BATCH)
                batch = [_encoded(self._waiting.popleft()) for _ in range(size)]
                for _ in self._receiver.send(batch):
                    pass
                left -= size
                self._failed = False
        except Exception as error:
            self._waiting.clear()
            if not self._failed:
                text = error.message if isinstance(error, ShiplineError) else str(error)
                _log.warning("traces were not delivered, and are dropped: %s", text)
            self._failed = True


def _encoded(one: ServerSpan) -> bytes:
    return span(
        one.name,
        one.own,
        one.parent,
        (one.started, one.started + one.seconds),
        one.attributes,
        kind=SERVER if one.is_server else INTERNAL,
        remote=one.is_server,
        error=one.error,
    )


def open_server_spans(environ: Mapping[str, str]) -> ServerSpans | None:
    """The spans of a node, if `environ` asks for traces and names a receiver. Never raises: a node
    serves without telemetry, and logs why.
    """
    for problem in ignored(environ):
        _log.warning("telemetry: %s", problem)
    if not asked("traces", environ):
        return None
    try:
        return ServerSpans(environ)
    except ShiplineError as error:
        _log.warning("there are no traces of this node: %s (%s)", error.message, error.hint)
        return None
