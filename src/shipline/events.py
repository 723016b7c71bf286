"""Progress events: five frozen types that form a tree of spans.

A `Stream` carries events from many threads to its sinks through one bounded queue and one thread.
A sink is any callable that takes an event; one with a `close` method is closed at the end. A slow
sink loses Progress events and nothing else; one that raises receives no more events, and the work
and the other sinks continue.

    with Stream(sink) as stream, stream.step("build") as build:
        with build.step("COPY . /app", platform="linux/amd64") as step:
            step.progress(current=10, total=100)
"""

from __future__ import annotations

import itertools
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Self

from msgspec import Struct, field

from shipline.errors import Cancelled, ShiplineError
from shipline.propagation import Trace, within
from shipline.units import as_unicode

Attribute = str | int | float | bool
_CAPACITY = 8192  # events
_PROGRESS_LIMIT = _CAPACITY // 2


class Started(Struct, frozen=True, tag=True):
    """A span began: `parent` is the span around it, 0 at the root; `at` is Unix time in seconds."""

    span: int
    at: float
    name: str
    parent: int = 0
    attributes: Mapping[str, Attribute] = field(default_factory=dict)


class Progress(Struct, frozen=True, tag=True):
    """Progress of a span: `current` of `total` bytes, `total` 0 if unknown."""

    span: int
    at: float
    current: int
    total: int = 0


class Logged(Struct, frozen=True, tag=True):
    """A command in the span wrote `data`; `stream` is 1 for stdout, 2 for stderr."""

    span: int
    at: float
    data: bytes
    stream: int = 1


class Warned(Struct, frozen=True, tag=True):
    """A warning; the work continues. `more` are further fields of BuildKit's VertexWarning, as in
    its JSON: detail, url, sourceInfo, range.
    """

    span: int
    at: float
    message: str
    hint: str = ""
    more: Mapping[str, object] = field(default_factory=dict)


class Finished(Struct, frozen=True, tag=True):
    """A span ended; `error` is empty on success, `cached` tells that nothing had to run. `code`,
    `exit_code` and `hint` are those of the error (errors.py), the exit code of a bug is 1.
    """

    span: int
    at: float
    error: str = ""
    cached: bool = False
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    code: str = ""
    exit_code: int = 0
    hint: str = ""


CANCELLED = str(Cancelled())
"""The error of a span that ended because its work was cancelled."""

Event = Started | Progress | Logged | Warned | Finished
Sink = Callable[[Event], None]


class Step:
    """An open span, through which work reports. Safe to use from any thread."""

    __slots__ = ("_attributes", "_cached", "_common", "_stream", "span")

    def __init__(
        self, stream: Stream, span: int, common: Mapping[str, Attribute] | None = None
    ) -> None:
        self._stream = stream
        self._common = common or {}
        self._attributes: dict[str, Attribute] = {}
        self._cached = False
        self.span = span

    @property
    def target(self) -> str:
        """The target that this is a part of, empty where there is one alone."""
        return str(self._common.get("target", ""))

    def progress(self, current: int, total: int = 0) -> None:
        self._stream.emit(Progress(self.span, self._stream.clock(), current, total))

    def output(self, data: bytes, stream: int = 1) -> None:
        self._stream.emit(Logged(self.span, self._stream.clock(), data, stream))

    def warn(
        self, message: str, hint: str = "", *, more: Mapping[str, object] | None = None
    ) -> None:
        if self.target and not more:  # the others name a place in a file
            message = f"target {self.target}: {message}"
        at, message, hint = self._stream.clock(), as_unicode(message), as_unicode(hint)
        self._stream.emit(Warned(self.span, at, message, hint, more or {}))

    def cached(self) -> None:
        """Report that the result was cached."""
        self._cached = True

    def note(self, **attributes: Attribute) -> None:
        """Add attributes to the Finished event."""
        self._attributes.update(attributes)

    def within(self, **attributes: Attribute) -> Step:
        """This span, whose further children have `attributes` in addition."""
        step = Step(self._stream, self.span, {**self._common, **attributes})
        step._attributes = self._attributes
        return step

    @contextmanager
    def step(self, name: str, **attributes: Attribute) -> Iterator[Step]:
        """Open a child span; an exception that leaves the block becomes its error."""
        with self._stream._span(name, self.span, {**self._common, **attributes}) as child:
            yield child


class Stream:
    """Delivers events to sinks. Leaving the block delivers queued events, then closes the sinks.

    With `trace`, the thread that opens a step works for that span of it inside the step's block.
    """

    def __init__(
        self, *sinks: Sink, clock: Callable[[], float] = time.time, trace: Trace | None = None
    ) -> None:
        self.clock = clock
        self.trace = trace
        self._sinks = sinks
        self._failures: dict[int, Exception] = {}  # by the index of the sink
        self._queue: queue.Queue[Event | None] = queue.Queue(_CAPACITY)
        self._ids = itertools.count(1)
        self._thread = threading.Thread(target=self._deliver, name="events", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._queue.put(None)
        self._thread.join()
        for index, sink in enumerate(self._sinks):
            self._guard(index, getattr(sink, "close", lambda: None))

    @property
    def failures(self) -> tuple[Exception, ...]:
        """The first exception of each failed sink, for the caller to show after the block."""
        return tuple(self._failures.values())

    def emit(self, event: Event) -> None:
        """Queue `event`; blocks while the queue is full. Progress is dropped from half full."""
        if isinstance(event, Progress) and self._queue.qsize() > _PROGRESS_LIMIT:
            return
        self._queue.put(event)

    @contextmanager
    def step(self, name: str, **attributes: Attribute) -> Iterator[Step]:
        """Open a root span."""
        with self._span(name, 0, attributes) as step:
            yield step

    @contextmanager
    def _span(self, name: str, parent: int, attributes: Mapping[str, Attribute]) -> Iterator[Step]:
        step = Step(self, next(self._ids))
        self.emit(Started(step.span, self.clock(), as_unicode(name), parent, _plain(attributes)))
        ending = "", "", 0, ""
        try:
            with within(self.trace.span(step.span) if self.trace else None):
                yield step
        except BaseException as failure:
            ending = _ending(failure)
            raise
        finally:
            error, code, status, hint = ending
            attributes = _plain(step._attributes)
            cached = step._cached
            end = Finished(step.span, self.clock(), error, cached, attributes, code, status, hint)
            self.emit(end)

    def _deliver(self) -> None:
        while (event := self._queue.get()) is not None:
            for index, sink in enumerate(self._sinks):
                if index not in self._failures:
                    self._guard(index, partial(sink, event))

    def _guard(self, index: int, call: Callable[[], object]) -> None:
        try:
            call()
        except Exception as failure:  # only the caller of the block can show it
            self._failures.setdefault(index, failure)


def _ending(failure: BaseException) -> tuple[str, str, int, str]:
    """Message, code, exit code and hint."""
    name = type(failure).__name__
    code, status, hint = name, 1, ""
    if isinstance(failure, ShiplineError | Cancelled):
        code, status, hint = failure.code, failure.exit_code, getattr(failure, "hint", "")
    return as_unicode(str(failure)) or name, code, status, as_unicode(hint)


def _plain(attributes: Mapping[str, Attribute]) -> dict[str, Attribute]:
    return {
        name: as_unicode(one) if isinstance(one, str) else one for name, one in attributes.items()
    }


@contextmanager
def silent(name: str = "silent") -> Iterator[Step]:
    """A step without sinks, for callers that want no events."""
    with Stream() as stream, stream.step(name) as step:
        yield step
