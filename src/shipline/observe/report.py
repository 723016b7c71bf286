"""What a run did and where its time went, for its last lines."""

from __future__ import annotations

from collections.abc import Iterator

from shipline.events import Attribute, Event, Finished, Logged, Progress, Started
from shipline.observe.board import Board
from shipline.observe.text import seconds_text, size_text
from shipline.units import counted

_CHAIN = 3  # steps shown
_SHORT_S = 0.1  # steps that took less are not worth a line


class RunReport:
    """A sink that keeps what the report at the end needs."""

    def __init__(self) -> None:
        self._board = Board()
        self._uploads: set[int] = set()
        self._started: float | None = None
        self._ended = 0.0
        self._uploaded = 0
        self.facts: dict[str, Attribute] = {}
        """What the whole operation noted."""

    def __call__(self, event: Event) -> None:
        if isinstance(event, Started):
            self._started = event.at if self._started is None else self._started
            self._board.start(event)
            if event.attributes.get("kind") == "upload":
                self._uploads.add(event.span)
        elif isinstance(event, Progress):
            self._board.progress(event)
        elif isinstance(event, Finished):
            self._finish(event)
        elif isinstance(event, Logged):
            return
        self._ended = max(self._ended, event.at)

    def _finish(self, event: Finished) -> None:
        activity = self._board.finish(event)
        if activity is None:
            self.facts.update(event.attributes)
        elif event.span in self._uploads and not event.error:
            self._uploaded += activity.current

    def lines(self) -> list[str]:
        """The report: steps and time, what decided it, what was uploaded, sizes."""
        steps = [one for one in self._board.vertexes.values() if one.inputs or one.digest]
        steps = steps or list(self._board.vertexes.values())
        cached = sum(one.cached for one in steps)
        elapsed = self._ended - (self._started or self._ended)
        rows = [
            ("time", f"{seconds_text(elapsed)}: {counted(len(steps), 'step')}, {cached} cached")
        ]
        rows += [("longest", one) for one in self._chain_lines()]
        if (stored := int(self.facts.get("stored", 0))) and self._uploads:
            reused = max(stored - self._uploaded, 0)
            rows.append(
                ("uploaded", f"{size_text(self._uploaded)}; {size_text(reused)} was there already")
            )
        if sizes := str(self.facts.get("sizes", "")).split():
            pairs = (one.rpartition("=") for one in sizes)
            shown = ", ".join(f"{name} {size_text(int(size))}" for name, _, size in pairs)
            rows.append(("size", shown))
        return table(rows)

    def _chain_lines(self) -> Iterator[str]:
        chain = self._board.chain() or self._board.vertexes.values()
        slow = [one for one in chain if one.elapsed(one.started) >= _SHORT_S]
        slow.sort(key=lambda one: -one.elapsed(one.started))
        for one in slow[:_CHAIN]:
            yield f"{seconds_text(one.elapsed(one.started))} {one.name}"


def table(rows: list[tuple[str, str]]) -> list[str]:
    """Lines of a name and a text; a name that repeats is shown once."""
    names = [name for name, _ in rows]
    return [
        f"{'' if index and names[index - 1] == name else name:<9} {text}"
        for index, (name, text) in enumerate(rows)
    ]
