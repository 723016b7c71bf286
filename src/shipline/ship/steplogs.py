"""Logs of the steps that every chain has: build, gates, reserve, sign, copy, publish.

Commands write their logs themselves, as their bytes come.
"""

from __future__ import annotations

from pathlib import Path
from typing import TextIO

from shipline.events import Event, Finished, Sink, Started
from shipline.observe import LinesSink
from shipline.ship.runs import log_path
from shipline.ship.section import RESERVED


class StepLogs:
    """A sink that writes what such a step did to its log, as lines; a reused one keeps its log.

    `begin` names the directory of the run; what happens before it is not kept.
    """

    def __init__(self) -> None:
        self._directory: Path | None = None
        self._logs: dict[int, _Log] = {}  # by span, those below a step share its log

    def begin(self, directory: Path) -> None:
        self._directory = directory

    def __call__(self, event: Event) -> None:
        if isinstance(event, Started) and self._directory is not None:
            name = event.attributes.get("stage")
            if event.parent in self._logs:
                self._logs[event.span] = self._logs[event.parent]
            elif event.attributes.get("kind") == "run" and name in RESERVED:
                self._logs[event.span] = _Log(log_path(self._directory, str(name)), event.span)
        if log := self._logs.get(event.span):
            log.take(event)

    def close(self) -> None:
        for log in self._logs.values():
            log.close()


class _Log:
    """One file, made when there is something to say besides that a step was reused."""

    def __init__(self, path: Path, span: int) -> None:
        self._path = path
        self._span = span
        self._early: list[Event] = []
        self._file: TextIO | None = None
        self._write: Sink = self._early.append

    def take(self, event: Event) -> None:
        first = not self._early
        self._write(event)
        if self._file is None and not first and not _reused(event):
            self._open()
        if isinstance(event, Finished) and event.span == self._span:
            self.close()

    def _open(self) -> None:
        self._file = self._path.open("w", encoding="utf-8", errors="replace")
        self._write = LinesSink(self._file)
        for event in self._early:
            self._write(event)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def _reused(event: Event) -> bool:
    return isinstance(event, Finished) and event.cached
