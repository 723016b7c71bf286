"""The state that events add up to: vertexes with a number, and the transfers inside them.

Attributes of Started that are read here: `kind` (run, copy, pull, unpack, upload, download,
export, internal), `platform`, `stage`, `number` ("2/3"), `size`. A root span without a kind is the
operation as a whole and no vertex. A pull, upload or the like inside a vertex is a transfer of that
vertex.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from shipline.errors import Cancelled
from shipline.events import Finished, Output, Progress, Started
from shipline.observe.text import clean

_TRANSFERS = frozenset({"upload", "pull", "download", "unpack"})
_LONGEST = 1 << 16  # bytes of a line that is shown in one piece
_INTERRUPTED = str(Cancelled())


@dataclass(slots=True)
class Activity:
    """Something with a beginning, an end and bytes that move; times are Unix time in seconds."""

    name: str
    started: float
    finished: float | None = None
    error: str = ""
    current: int = 0
    total: int = 0

    def elapsed(self, now: float) -> float:
        return (now if self.finished is None else self.finished) - self.started

    def speed(self, now: float) -> float:
        """Bytes per second so far."""
        elapsed = self.elapsed(now)
        return self.current / elapsed if elapsed > 0 else 0.0

    @property
    def running(self) -> bool:
        return self.finished is None

    @property
    def cancelled(self) -> bool:
        return self.error == _INTERRUPTED


@dataclass(slots=True)
class VertexState(Activity):
    """A step as people see it: `number` counts from 1, `name` is `[platform stage 2/3] text`."""

    number: int = 0
    span: int = 0
    cached: bool = False
    transfers: dict[int, Activity] = field(default_factory=dict)
    lines: dict[int, bytearray] = field(default_factory=dict)

    def take(self, data: bytes, stream: int) -> Iterator[bytes]:
        """The lines that are complete now; the rest waits for its end."""
        waiting = self.lines.setdefault(stream, bytearray())
        waiting += data
        *whole, rest = waiting.split(b"\n")
        for line in whole:
            yield bytes(line)
        if len(rest) > _LONGEST:
            yield bytes(rest)
            rest = bytearray()
        self.lines[stream] = rest

    def rest(self) -> Iterator[bytes]:
        """What was written without an end of line."""
        for waiting in self.lines.values():
            if waiting:
                yield bytes(waiting)
        self.lines.clear()


class Board:
    """All vertexes, by span."""

    def __init__(self) -> None:
        self.vertexes: dict[int, VertexState] = {}
        self._owner: dict[int, int] = {}

    def vertex(self, span: int) -> VertexState | None:
        """The vertex that is the span, or that the span is a transfer of."""
        return self.vertexes.get(self._owner.get(span, span))

    def activity(self, span: int) -> Activity | None:
        owner = self.vertex(span)
        return None if owner is None else owner.transfers.get(span, owner)

    def start(self, event: Started) -> VertexState | None:
        """The new vertex; None for a transfer and for the operation as a whole."""
        kind = str(event.attributes.get("kind", ""))
        total = int(event.attributes.get("size", 0))
        owner = self.vertex(event.parent)
        if owner is not None and kind in _TRANSFERS:
            self._owner[event.span] = owner.span
            owner.transfers[event.span] = Activity(clean(event.name), event.at, total=total)
            return None
        if event.parent == 0 and not kind:
            return None
        number = len(self.vertexes) + 1
        made = VertexState(label(event), event.at, total=total, number=number, span=event.span)
        self.vertexes[event.span] = made
        return made

    def progress(self, event: Progress) -> Activity | None:
        found = self.activity(event.span)
        if found is not None:
            found.current, found.total = event.current, event.total or found.total
        return found

    def output(self, event: Output) -> Iterator[bytes]:
        vertex = self.vertex(event.span)
        return iter(()) if vertex is None else vertex.take(event.data, event.stream)

    def finish(self, event: Finished) -> Activity | None:
        found = self.activity(event.span)
        if found is not None:
            found.finished, found.error = event.at, event.error
        if isinstance(found, VertexState):
            found.cached = event.cached
        return found


def label(event: Started) -> str:
    """`[linux/arm64 build 2/3] RUN make`, of the parts that are known."""
    parts = [str(event.attributes.get(key, "")) for key in ("platform", "stage", "number")]
    if not any(parts) and event.attributes.get("kind") == "internal":
        parts = ["internal"]
    where = " ".join(filter(None, parts))
    return clean(f"[{where}] {event.name}" if where else event.name)
