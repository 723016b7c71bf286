"""A clock that only tests move, and sinks fed by hand."""

from __future__ import annotations

from collections.abc import Mapping

from shipline.events import Attribute, Event, Finished, Logged, Progress, Sink, Started, Warned

START = 1_700_000_000.0


class Script:
    """Sends events to a sink with times relative to START, in seconds."""

    def __init__(self, *sinks: Sink) -> None:
        self._sinks = sinks
        self._spans = 0

    def _send(self, event: Event) -> None:
        for sink in self._sinks:
            sink(event)

    def start(self, at: float, name: str, parent: int = 0, **attributes: Attribute) -> int:
        self._spans += 1
        known: Mapping[str, Attribute] = attributes
        self._send(Started(self._spans, START + at, name, parent, known))
        return self._spans

    def progress(self, at: float, span: int, current: int, total: int = 0) -> None:
        self._send(Progress(span, START + at, current, total))

    def output(self, at: float, span: int, data: bytes, stream: int = 1) -> None:
        self._send(Logged(span, START + at, data, stream))

    def warn(self, at: float, span: int, message: str, hint: str = "") -> None:
        self._send(Warned(span, START + at, message, hint))

    def finish(self, at: float, span: int, error: str = "", cached: bool = False) -> None:
        self._send(Finished(span, START + at, error, cached))
