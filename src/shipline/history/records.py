"""The record of a run, and how it follows from the events of the run."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from shipline.events import CANCELLED, Attribute, Event, Finished, Started, Warned
from shipline.observe import Board
from shipline.values import replace

LATEST = 253_402_214_400.0  # Unix time; a day before the year 10000, which calendars do not have
Moment = Annotated[float, Meta(ge=0, lt=LATEST)]


class RunState(StrEnum):
    """The state of a run or a step."""

    WAITING = "waiting"
    RUNNING = "running"
    PASSED = "passed"
    FAILED = "failed"
    TOLERATED = "tolerated"
    PENDING = "pending"
    SKIPPED = "skipped"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"


class RunSummary(Struct, frozen=True, omit_defaults=True):
    """What a list shows of a run. Times are Unix time in seconds, 0 if unset.

    `kind` is the command: build, bake, ship. `root` is the directory or URL that it was about; runs
    of one kind, root and name are runs of the same thing. `done`, `cached` and `total` count steps,
    and `names` are those that the image got. `ref` is the reference of the build in metadata files,
    `source` the URL of its repository, `code` and `hint` those of its error. Everything but the
    first four may be empty.
    """

    id: str
    kind: str
    name: str
    started: Moment
    state: RunState = RunState.RUNNING
    finished: Moment = 0.0
    root: str = ""
    commit: str = ""
    branch: str = ""
    dirty: bool = False
    platforms: tuple[str, ...] = ()
    digest: str = ""
    names: tuple[str, ...] = ()
    done: int = 0
    cached: int = 0
    total: int = 0
    warnings: int = 0
    error: str = ""
    code: str = ""
    trace: str = ""
    ref: str = ""
    source: str = ""
    hint: str = ""

    @property
    def elapsed_s(self) -> float:
        """How long it took; 0 while it runs, or if that is not known."""
        return max(self.finished - self.started, 0.0)

    def is_same_thing(self, other: RunSummary) -> bool:
        """Whether both are runs of one thing."""
        return (self.kind, self.root, self.name) == (other.kind, other.root, other.name)


WORDS = frozenset({"platforms", "names"})
"""Attributes of the root span with several words, apart by spaces."""


class LiveSummary:
    """The summary of a run after each of its events.

    Attributes of the root span, at its start or its end, have the names of RunSummary's fields.
    """

    def __init__(self, run: RunSummary) -> None:
        self.run = run
        self.changed = False
        self._root = 0
        self._board = Board()

    def take(self, event: Event) -> None:
        if isinstance(event, Started):
            self._start(event)
        elif isinstance(event, Finished):
            self._finish(event)
        elif isinstance(event, Warned):
            self._set(warnings=self.run.warnings + 1)

    def _start(self, event: Started) -> None:
        if event.parent == 0 and not self._root:
            self._root = event.span
            self._set(**told(event.attributes))
        elif self._board.start(event) is not None:
            self._set(total=self.run.total + 1)

    def _finish(self, event: Finished) -> None:
        if event.span == self._root:
            state = str(event.attributes.get("outcome", ""))
            self._set(
                **told(event.attributes),
                finished=event.at,
                state=RunState(state) if state and not event.error else outcome(event.error),
                error=event.error,
                code=event.code,
                hint=event.hint,
            )
        elif event.span in self._board.vertexes:
            found = self.run
            done = found.done + (not event.error)
            self._set(done=done, cached=found.cached + event.cached)

    def _set(self, **fields: object) -> None:
        self.run = replace(self.run, **fields)
        self.changed = True


def told(attributes: Mapping[str, Attribute]) -> dict[str, object]:
    """The fields of a summary that attributes of a root span say."""
    return {
        name: tuple(str(value).split()) if name in WORDS else value
        for name, value in attributes.items()
        if name in RunSummary.__struct_fields__
    }


def outcome(error: str) -> RunState:
    """How a span with this error ended."""
    if error == CANCELLED:
        return RunState.CANCELLED
    return RunState.FAILED if error else RunState.PASSED


encode_summary = msgspec.json.Encoder().encode


def decode_summary(data: bytes) -> RunSummary:
    """Raises MsgspecError."""
    return msgspec.json.decode(data, type=RunSummary)
