"""The state of a build from its events: numbered vertexes and their transfers.

Attributes of Started used here: `kind` (run, copy, pull, unpack, upload, download, resolve,
export, internal, status), `platform`, `single` (it is the only one of its build), `stage`,
`number` ("2/3"), `size`, `vertex` (a digest) and `inputs` (those of the vertexes whose results it
uses, apart by spaces). A root span without a kind is the whole operation, not a vertex; it may
have the `builder` that builds, and its `driver`. A pull, upload, download, unpack or status inside
a vertex is a line of that vertex.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct, field

from shipline.events import CANCELLED, Finished, Logged, Progress, Started
from shipline.observe.text import OutputLines, clean

_TRANSFERS = frozenset({"upload", "pull", "download", "unpack", "status"})
_INTERNAL = ("internal", "resolve")


class Activity(Struct):
    """A vertex or transfer: start, end and bytes; times are Unix time in seconds."""

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

    def left(self, now: float) -> float:
        """The seconds that the rest will take at that speed; 0 if nothing is known."""
        speed, rest = self.speed(now), self.total - self.current
        return rest / speed if speed and rest > 0 else 0.0

    @property
    def running(self) -> bool:
        return self.finished is None

    @property
    def cancelled(self) -> bool:
        return self.error == CANCELLED


class VertexState(Activity):
    """A build step: `number` counts from 1, `name` is `[target platform stage 2/3] text`."""

    number: int = 0
    span: int = 0
    digest: str = ""
    inputs: tuple[str, ...] = ()
    cached: bool = False
    transfers: dict[int, Activity] = field(default_factory=dict)
    output: OutputLines = field(default_factory=OutputLines)


class Board:
    """All vertexes by span."""

    def __init__(self) -> None:
        self.vertexes: dict[int, VertexState] = {}
        self._owner: dict[int, int] = {}

    def vertex(self, span: int) -> VertexState | None:
        """The vertex of the span, or the one whose transfer it is."""
        return self.vertexes.get(self._owner.get(span, span))

    def activity(self, span: int) -> Activity | None:
        owner = self.vertex(span)
        return None if owner is None else owner.transfers.get(span, owner)

    def start(self, event: Started) -> VertexState | None:
        """The new vertex; None for a transfer and for the whole operation."""
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
        vertex = VertexState(
            label(event),
            event.at,
            total=total,
            number=number,
            span=event.span,
            digest=str(event.attributes.get("vertex", "")),
            inputs=tuple(str(event.attributes.get("inputs", "")).split()),
        )
        self.vertexes[event.span] = vertex
        return vertex

    def progress(self, event: Progress) -> Activity | None:
        activity = self.activity(event.span)
        if activity is not None:
            activity.current, activity.total = event.current, event.total or activity.total
        return activity

    def chain(self) -> list[VertexState]:
        """The vertexes that decided how long the run took, the last one first: the one that ended
        last, of what it waited for the one that ended last, and so on. Empty without inputs.
        """
        by_digest = {one.digest: one for one in self.vertexes.values() if one.digest}
        found: dict[int, VertexState] = {}
        current = max((one for one in self.vertexes.values() if one.inputs), key=_end, default=None)
        while current is not None and current.span not in found:
            found[current.span] = current
            waited = (by_digest[one] for one in current.inputs if one in by_digest)
            current = max(waited, key=_end, default=None)
        return list(found.values())

    def output(self, event: Logged) -> Iterator[bytes]:
        vertex = self.vertex(event.span)
        return iter(()) if vertex is None else vertex.output.take(event.data, event.stream)

    def finish(self, event: Finished) -> Activity | None:
        activity = self.activity(event.span)
        if activity is not None:
            activity.finished, activity.error = event.at, event.error
        if isinstance(activity, VertexState):
            activity.cached = event.cached
        return activity


def _end(vertex: VertexState) -> float:
    return vertex.finished or float("inf")


def builder_of(event: Started) -> tuple[str, str] | None:
    """The name and the driver of the builder with which the whole operation begins."""
    name = clean(str(event.attributes.get("builder", "")))
    is_root = event.parent == 0 and not event.attributes.get("kind")
    return (name, clean(str(event.attributes.get("driver", "")))) if is_root and name else None


def label(event: Started) -> str:
    """`[web linux/arm64 build 2/3] RUN make`, with the parts that are known, as BuildKit names it:
    without the only platform of a build.
    """
    at = event.attributes
    target, platform, stage = (str(at.get(key, "")) for key in ("target", "platform", "stage"))
    index, _, total = str(at.get("number", "")).partition("/")
    parts = [
        target,
        "" if at.get("single") else platform,
        "internal" if at.get("kind") in _INTERNAL else "",
        stage,
        f"{index.rjust(len(total))}/{total}" if total else index,
    ]
    where = " ".join(filter(None, parts))
    return clean(f"[{where}] {event.name}" if where else event.name)
