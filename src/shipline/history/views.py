"""A run as its events tell it: steps, transfers, warnings and output."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from msgspec import Struct

from shipline.events import Attribute, Event, Finished, Logged, Started, Warned
from shipline.history.records import RunSummary
from shipline.observe import Board, VertexState, clean

_PLACED = frozenset(
    {"kind", "platform", "target", "stage", "number", "vertex", "inputs", "file", "line", "end"}
)
_TEXTS = ("platform", "target", "stage", "number", "file")


class Transfer(Struct, frozen=True):
    """A pull, upload, download or unpack that is part of a step; sizes in bytes, 0 if unknown.
    `blob` is the digest of the layer that is uploaded, if that is known.
    """

    span: int
    name: str
    kind: str
    started: float
    finished: float = 0.0
    current: int = 0
    total: int = 0
    error: str = ""
    blob: str = ""


class WarningView(Struct, frozen=True):
    """A warning of a step; `span` is 0 for the run."""

    span: int
    at: float
    message: str
    hint: str = ""


class LogLine(Struct, frozen=True):
    """A piece of what a command wrote, as it came; `stream` is 1 for stdout, 2 for stderr."""

    at: float
    stream: int
    data: bytes


class StepView(Struct, frozen=True):
    """A step of a run. Times are Unix time in seconds; `finished` is 0 while it runs.

    `vertex` identifies its work, `number` is its place in the stage (`2/3`), `file`, `line` and
    `end` where it stands, with lines that count from 1 (0 if unknown). `inputs` are the spans of
    the steps whose results it uses. `on_chain` is true for the steps that decided how long the run
    took. `attributes` are the others of the step: size, digest and parts of the key.
    """

    span: int
    parent: int
    name: str
    started: float
    finished: float = 0.0
    kind: str = ""
    platform: str = ""
    target: str = ""
    stage: str = ""
    number: str = ""
    file: str = ""
    line: int = 0
    end: int = 0
    vertex: str = ""
    cached: bool = False
    error: str = ""
    inputs: tuple[int, ...] = ()
    transfers: tuple[Transfer, ...] = ()
    warnings: tuple[WarningView, ...] = ()
    on_chain: bool = False
    attributes: Mapping[str, Attribute] = {}

    @property
    def elapsed_s(self) -> float:
        """How long it took, 0 while it runs."""
        return max(self.finished - self.started, 0.0)


class RunDetail(Struct, frozen=True):
    """A run with its steps, in the order in which they began.

    `facts` are the attributes of the whole run beyond its summary: its context, its Dockerfile's
    text, what it downloaded.
    """

    summary: RunSummary
    steps: tuple[StepView, ...]
    warnings: tuple[WarningView, ...] = ()
    facts: Mapping[str, Attribute] = {}
    output: Mapping[int, tuple[LogLine, ...]] = {}

    def log(self, span: int) -> Iterator[LogLine]:
        """What a step wrote, in its order."""
        yield from self.output.get(span, ())

    @property
    def materials(self) -> list[dict[str, Any]]:
        """What builds fetched, each once: in-toto's resource descriptors, which have a `uri` and a
        `digest` by algorithm; what is damaged is left out.
        """
        found: dict[str, dict[str, Any]] = {}
        for attributes in (self.facts, *(one.attributes for one in self.steps)):
            for name, text in attributes.items():
                if name.partition(" ")[0] == "materials":
                    found |= {one["uri"]: one for one in _descriptors(str(text))}
        return [*found.values()]

    def dockerfile(self, target: str = "") -> str:
        """The Dockerfile that the run read; that of a target of bake, which each has its own."""
        found = {
            one.target: str(text)
            for one in reversed(self.steps)
            if (text := one.attributes.get("dockerfile"))
        }
        return found.get(target) or next(reversed(found.values()), "")

    def step(self, span: int) -> StepView | None:
        return next((one for one in self.steps if one.span == span), None)


def _descriptors(text: str) -> Iterator[dict[str, Any]]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return
    for one in found if isinstance(found, list) else ():
        if isinstance(one, dict) and isinstance(one.get("uri"), str):
            yield one if isinstance(one.get("digest"), dict) else {**one, "digest": {}}


def detail_of(summary: RunSummary, events: Iterable[Event]) -> RunDetail:
    """The run of these events."""
    board = Board()
    root = 0
    started: dict[int, Started] = {}
    facts: dict[str, Attribute] = {}
    ends: dict[int, Finished] = {}
    warnings: dict[int, list[WarningView]] = defaultdict(list)
    output: dict[int, list[LogLine]] = defaultdict(list)
    for event in events:
        if isinstance(event, Started):
            started[event.span] = event
            board.start(event)
            if event.parent == 0 and not event.attributes.get("kind"):
                root = event.span
                facts.update(event.attributes)
            continue
        vertex = board.vertex(event.span)
        span = vertex.span if vertex is not None else 0
        if isinstance(event, Logged):
            output[span].append(LogLine(event.at, event.stream, event.data))
        elif isinstance(event, Warned):
            view = WarningView(span, event.at, event.message, event.hint)
            warnings[span].append(view)
        elif isinstance(event, Finished):
            board.finish(event)
            ends[event.span] = event
            if event.span == root:
                facts.update(event.attributes)
        else:
            board.progress(event)
    steps = _steps(board, started, ends, warnings)
    return RunDetail(
        summary,
        tuple(steps),
        tuple(warnings[0]),
        {name: one for name, one in facts.items() if name not in RunSummary.__struct_fields__},
        {span: tuple(lines) for span, lines in output.items()},
    )


def unmixed(events: Iterable[Event]) -> Iterator[Event]:
    """The events, those of each step in one piece, in the order in which the steps began."""
    board = Board()
    pieces: dict[int, list[Event]] = {0: []}
    rest: list[Event] = []
    for event in events:
        if isinstance(event, Started):
            board.start(event)
        vertex = board.vertex(event.span)
        if vertex is not None:
            pieces.setdefault(vertex.span, []).append(event)
        else:
            (pieces[0] if isinstance(event, Started) else rest).append(event)
    for piece in pieces.values():
        yield from piece
    yield from rest


def _steps(
    board: Board,
    started: Mapping[int, Started],
    ends: Mapping[int, Finished],
    warnings: Mapping[int, list[WarningView]],
) -> list[StepView]:
    spans = {one.digest: one.span for one in board.vertexes.values() if one.digest}
    chain = {one.span for one in board.chain()}
    found = []
    for vertex in board.vertexes.values():
        event, end = started[vertex.span], ends.get(vertex.span)
        attributes = event.attributes
        others = {**attributes, **(end.attributes if end is not None else {})}
        texts = {name: clean(str(attributes.get(name, ""))) for name in _TEXTS}
        found.append(
            StepView(
                vertex.span,
                event.parent,
                clean(event.name),
                vertex.started,
                vertex.finished or 0.0,
                str(attributes.get("kind", "")),
                **texts,
                line=int(attributes.get("line", 0)),
                end=int(attributes.get("end", 0)),
                vertex=vertex.digest,
                cached=vertex.cached,
                error=vertex.error,
                inputs=tuple(spans[one] for one in vertex.inputs if one in spans),
                transfers=tuple(_transfers(vertex, started, ends)),
                warnings=tuple(warnings.get(vertex.span, ())),
                on_chain=vertex.span in chain,
                attributes={name: one for name, one in others.items() if name not in _PLACED},
            )
        )
    return found


def _transfers(
    vertex: VertexState, started: Mapping[int, Started], ends: Mapping[int, Finished]
) -> Iterator[Transfer]:
    for span, one in vertex.transfers.items():
        yield Transfer(
            span,
            one.name,
            str(started[span].attributes.get("kind", "")),
            one.started,
            one.finished or 0.0,
            one.current,
            one.total,
            one.error,
            _blob(started[span], ends.get(span)),
        )


def _blob(started: Started, end: Finished | None) -> str:
    ended = {} if end is None else end.attributes
    return str({**started.attributes, **ended}.get("blob", ""))
