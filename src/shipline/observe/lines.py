"""Progress as plain lines in BuildKit's form."""

from __future__ import annotations

from contextlib import suppress
from typing import TextIO

from shipline.events import Event, Finished, Logged, Progress, Started, Warned
from shipline.observe.board import Activity, Board, VertexState, builder_of
from shipline.observe.text import clean, progress_text, seconds_text, size_text

_INTERVAL_S = 2.0  # between progress lines of a transfer


class LinesSink:
    """Writes `#5 [linux/arm64 2/3] RUN make`, `#5 0.312 output`, `#5 DONE 0.4s` to a stream.

    Never raises: if the stream is closed, the work goes on.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._board = Board()
        self._reported: dict[int, float] = {}

    def __call__(self, event: Event) -> None:
        lines = self._lines(event)
        if lines:
            with suppress(OSError, ValueError):
                self._stream.write("".join(f"{line}\n" for line in lines))
                self._stream.flush()

    def _lines(self, event: Event) -> list[str]:
        if isinstance(event, Started):
            if builder := builder_of(event):
                name, driver = builder
                return [f'#0 building with "{name}" instance using {driver} driver', ""]
            started = self._board.start(event)
            return [] if started is None else [f"#{started.number} {started.name}"]
        vertex = self._board.vertex(event.span)
        if vertex is None:
            return _outside(event)
        if isinstance(event, Logged):
            return [_log(vertex, event.at, line) for line in self._board.output(event)]
        if isinstance(event, Warned):
            return [f"#{vertex.number} WARN: {line}" for line in _warning(event)]
        if isinstance(event, Progress):
            return self._progress(vertex, event)
        return self._finished(vertex, event)

    def _progress(self, vertex: VertexState, event: Progress) -> list[str]:
        activity = self._board.progress(event)
        if (
            activity is None
            or event.at - self._reported.get(event.span, activity.started) < _INTERVAL_S
        ):
            return []
        self._reported[event.span] = event.at
        speed = f"{size_text(activity.speed(event.at))}/s"
        left = activity.left(event.at)
        rest = f", {seconds_text(left)} left" if left >= 1 else ""
        return [f"{_transferred(vertex, activity, event.at)} ({speed}{rest})"]

    def _finished(self, vertex: VertexState, event: Finished) -> list[str]:
        activity = self._board.finish(event)
        self._reported.pop(event.span, None)
        if activity is not vertex and activity is not None:
            return [f"{_transferred(vertex, activity, event.at)} {_outcome(activity)}"]
        rest = [_log(vertex, event.at, line) for _, line in vertex.output.rest()]
        if vertex.current:
            rest.append(_transferred(vertex, vertex, event.at))
        return [*rest, f"#{vertex.number} {verdict(vertex)}", ""]


def verdict(vertex: VertexState) -> str:
    """The outcome of a vertex."""
    if vertex.cancelled:
        return "CANCELED"
    if vertex.error:
        return f"ERROR: {clean(vertex.error)}"
    return "CACHED" if vertex.cached else f"DONE {seconds_text(vertex.elapsed(vertex.started))}"


def _outcome(transfer: Activity) -> str:
    return f"failed: {clean(transfer.error)}" if transfer.error else "done"


def _transferred(vertex: VertexState, activity: Activity, now: float) -> str:
    name = "" if activity is vertex else f"{activity.name} "
    transferred = f"{progress_text(activity.current, activity.total)} " if activity.current else ""
    return f"#{vertex.number} {name}{transferred}{seconds_text(activity.elapsed(now))}"


def _log(vertex: VertexState, at: float, line: bytes) -> str:
    return f"#{vertex.number} {max(at - vertex.started, 0.0):.3f} {clean(line)}".rstrip()


def _warning(event: Warned) -> list[str]:
    return [clean(event.message), *([f"hint: {clean(event.hint)}"] if event.hint else [])]


def _outside(event: Event) -> list[str]:
    """Warnings and output of the whole operation, outside any vertex."""
    if isinstance(event, Warned):
        return [f"WARN: {line}" for line in _warning(event)]
    if isinstance(event, Logged):
        return [clean(line) for line in event.data.splitlines()]
    return []


class WarningsSink(LinesSink):
    """Shows warnings and nothing else. Never raises."""

    def _lines(self, event: Event) -> list[str]:
        lines = super()._lines(event)
        return lines if isinstance(event, Warned) else []
