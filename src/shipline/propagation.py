"""Which trace the calling thread works for, in and out of processes (W3C Trace Context).

`current()` is the span to name in requests, commits and records: that of the innermost open step of
the event stream while a `Trace` is recorded, else the one that the environment gave to this
process (TRACEPARENT and TRACESTATE), else None.
"""

from __future__ import annotations

import contextvars
import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Self

from msgspec import Struct

_TRACEPARENT = re.compile(
    "(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?"
)
_STATE_LIMIT = 512  # characters (W3C Trace Context, 3.3.1.5)


class SpanContext(Struct, frozen=True):
    """A span as other programs name it: identifiers in hexadecimal; `sampled` if it is recorded;
    `state` is the tracestate.
    """

    trace_id: str
    span_id: str
    sampled: bool = True
    state: str = ""

    @classmethod
    def parse(cls, traceparent: str, state: str = "") -> Self | None:
        """None for what is not a traceparent, which the specification has ignored."""
        found = _TRACEPARENT.fullmatch(traceparent.strip())
        if found is None or (found[1] == "00" and found[5]):
            return None
        state = state if state.isprintable() and len(state) <= _STATE_LIMIT else ""
        return cls(found[2], found[3], bool(int(found[4], 16) & 1), state)

    @property
    def traceparent(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-{'01' if self.sampled else '00'}"

    @property
    def environment(self) -> dict[str, str]:
        """The variables that give the span to a program as the parent of its own; BAGGAGE is
        inherited as it is.
        """
        state = {"TRACESTATE": self.state} if self.state else {}
        return {"TRACEPARENT": self.traceparent, **state}


class Trace(Struct, frozen=True):
    """The trace of one event stream: span identifiers follow from the numbers of its spans, so
    that everything that knows the trace knows them. `parent` is what the root continues; `base` is
    added to all numbers.
    """

    trace_id: str
    seed: str
    sampled: bool = True
    parent: SpanContext | None = None
    base: int = 0

    @classmethod
    def begin(cls, parent: SpanContext | None = None) -> Self:
        """A new trace, or the continuation of that of `parent`."""
        trace_id = parent.trace_id if parent else os.urandom(16).hex()
        return cls(trace_id, os.urandom(8).hex(), parent=parent)

    def span(self, number: int) -> SpanContext:
        """The span that the event stream gave this number."""
        digest = hashlib.sha256(
            f"{self.trace_id} {self.seed} {self.base + number}".encode()
        ).hexdigest()
        state = self.parent.state if self.parent else ""
        return SpanContext(self.trace_id, digest[:16], self.sampled, state)


_current: contextvars.ContextVar[SpanContext | None] = contextvars.ContextVar("span", default=None)


def current() -> SpanContext | None:
    """The span that the calling thread works for."""
    return _current.get()


def traceparent() -> str:
    """The traceparent of the span that the calling thread works for, empty without one."""
    found = _current.get()
    return "" if found is None else found.traceparent


def continue_from(environ: Mapping[str, str], follows: str = "") -> SpanContext | None:
    """The span to go on with: the current one, else the one that `environ` names, else that of the
    traceparent `follows`. It is the current one from now on.
    """
    said = environ.get("TRACEPARENT", ""), environ.get("TRACESTATE", "")
    found = _current.get() or SpanContext.parse(*said) or SpanContext.parse(follows)
    _current.set(found)
    return found


@contextmanager
def within(span: SpanContext | None) -> Iterator[None]:
    """`span` is the current one inside the block; with None nothing changes."""
    if span is None:
        yield
        return
    outer = _current.get()
    _current.set(span)
    try:
        yield
    finally:
        _current.set(outer)
