"""Progress for the logs of GitHub Actions: what each step wrote in a group of its own, unmixed.

Source: "Workflow commands for GitHub Actions", group and error.
"""

from __future__ import annotations

from collections import deque
from typing import TextIO

from shipline.events import Event, Finished, Output, Started, Warned
from shipline.observe.board import Vertex
from shipline.observe.lines import LinesSink, verdict
from shipline.observe.text import clean

_MOST = 20_000  # lines that are kept of a step


class GroupsSink(LinesSink):
    """Tells when a step starts, and shows its output when it has ended. Never raises."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._kept: dict[int, deque[str]] = {}

    def _lines(self, event: Event) -> list[str]:
        if isinstance(event, Started):
            made = self._board.start(event)
            return [] if made is None else [f"#{made.number} {made.name} ..."]
        vertex = self._board.vertex(event.span)
        if isinstance(event, Warned):
            where = f"#{vertex.number} " if vertex else ""
            return [f"::warning::{where}{_data(clean(event.message))}"]
        if vertex is None:
            return []
        kept = self._kept.setdefault(vertex.span, deque(maxlen=_MOST))
        if isinstance(event, Output):
            kept.extend(clean(line) for line in self._board.output(event))
        elif isinstance(event, Finished) and self._board.finish(event) is vertex:
            kept.extend(clean(line) for line in vertex.rest())
            return self._group(vertex)
        return []

    def _group(self, vertex: Vertex) -> list[str]:
        title = f"#{vertex.number} {vertex.name} {verdict(vertex)}"
        log = self._kept.pop(vertex.span)
        lines = [f"::group::{_data(title)}", *log, "::endgroup::"] if log else [title]
        if vertex.error and not vertex.cancelled:
            lines.append(f"::error title={_property(vertex.name)}::{_data(clean(vertex.error))}")
        return lines


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
