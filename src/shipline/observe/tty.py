"""Progress on a terminal: finished steps scroll away, running ones are redrawn below them.

Events only change the board; one thread draws it, at most ten times a second, so that a thousand
events cost one frame, and time passes on the screen while no event comes.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import TextIO

from shipline.events import Event, Finished, Output, Progress, Started, Warned
from shipline.observe.board import Board, Vertex
from shipline.observe.frame import (
    LOG_LINES,
    Line,
    final_line,
    live_lines,
    summary,
    warning_lines,
)
from shipline.observe.text import cells, clean
from shipline.tasks import TaskGroup

_INTERVAL_S = 0.1  # between two frames
_HIDE_CURSOR, _SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"


class TtySink:
    """Draws on a terminal until it is closed. Never raises: what cannot be drawn is not drawn."""

    def __init__(
        self, stream: TextIO, *, color: bool = True, clock: Callable[[], float] = time.time
    ) -> None:
        self._stream = stream
        self._color = color
        self._clock = clock
        self._lock = threading.Lock()
        self._board = Board()
        self._logs: dict[int, deque[str]] = {}
        self._ended: list[Vertex | Warned] = []
        self._drawn: list[int] = []
        self._started = clock()
        self._closing = threading.Event()
        self._threads: TaskGroup | None = None

    def __call__(self, event: Event) -> None:
        with self._lock:
            self._apply(event)
        if self._threads is None:
            self._threads = TaskGroup()  # not entered: it ends in close(), not with a block
            self._threads.start(self._keep_drawing)

    def close(self) -> None:
        """Draw the last state, and give the cursor back."""
        self._closing.set()
        if self._threads is not None:
            self._threads.join()
            self._draw(last=True)

    def _apply(self, event: Event) -> None:
        if isinstance(event, Started):
            self._board.start(event)
        elif isinstance(event, Progress):
            self._board.progress(event)
        elif isinstance(event, Output):
            self._log(event)
        elif isinstance(event, Warned):
            self._ended.append(event)
        else:
            self._finish(event)

    def _log(self, event: Output) -> None:
        vertex = self._board.vertex(event.span)
        for line in self._board.output(event):
            if vertex is not None and (text := clean(line)):
                self._logs.setdefault(vertex.span, deque(maxlen=LOG_LINES)).append(text)

    def _finish(self, event: Finished) -> None:
        found = self._board.finish(event)
        if isinstance(found, Vertex):
            self._ended.append(found)
            self._logs.pop(found.span, None)

    def _keep_drawing(self) -> None:
        while not self._closing.is_set():
            self._draw()
            self._closing.wait(_INTERVAL_S)

    def _draw(self, last: bool = False) -> None:
        width, height = self._size()
        with self._lock:
            lasting = [line for one in self._ended for line in _lasting(one, width)]
            self._ended.clear()
            live = self._live(width, 0 if last else height)
        parts = [_HIDE_CURSOR, _erase(self._drawn, width)]
        parts += [line.painted(self._color) + "\n" for line in (*lasting, *live)]
        if last:
            parts.append(_SHOW_CURSOR)
        self._drawn = [cells(line.text) for line in live if not last]
        with suppress(OSError, ValueError):
            self._stream.write("".join(parts))
            self._stream.flush()

    def _live(self, width: int, height: int) -> list[Line]:
        now, vertexes = self._clock(), list(self._board.vertexes.values())
        first = summary(vertexes, now - self._started, width)
        if height < 2:
            return [first]
        return [
            first,
            *live_lines(vertexes, self._logs, now, width=width, height=height - 2),
        ]

    def _size(self) -> tuple[int, int]:
        """Columns, one less than there are: a full line would wrap on some terminals; lines."""
        with suppress(OSError, ValueError):
            size = os.get_terminal_size(self._stream.fileno())
            if size.columns and size.lines:
                return max(size.columns - 1, 1), size.lines
        return 79, 24


def _lasting(one: Vertex | Warned, width: int) -> list[Line]:
    if isinstance(one, Warned):
        return warning_lines(clean(one.message), clean(one.hint), width)
    return [final_line(one, width)]


def _erase(drawn: list[int], width: int) -> str:
    """Go back over the lines of the last frame, which a narrower window has wrapped meanwhile."""
    rows = sum(max(1, -(-length // (width + 1))) for length in drawn)
    return f"\r\x1b[{rows}A\x1b[J" if rows else "\r\x1b[J"
