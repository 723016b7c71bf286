"""Progress on a terminal: finished steps scroll away, running ones are redrawn below them.

Events only change the board; one thread draws it, at most ten times a second, so that a thousand
events cost one frame, and time passes on the screen while no event comes. While the window changes
its size nothing is drawn: each frame drawn then would leave its head behind.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TextIO

from shipline.events import Event, Finished, Output, Progress, Started, Warned
from shipline.observe.board import Activity, Board, VertexState
from shipline.observe.text import cells, clean, clip, moved_text, seconds_text, size_text
from shipline.tasks import TaskGroup

LOG_LINES = 6  # last lines of output that a running step shows
_RED, _YELLOW, _CYAN, _FAINT, _PLAIN = "\x1b[31m", "\x1b[33m", "\x1b[36m", "\x1b[2m", "\x1b[0m"


@dataclass(frozen=True, slots=True)
class ScreenLine:
    """One line on the screen; `color` is the sequence that precedes it."""

    text: str
    color: str = ""

    def painted(self, color: bool) -> str:
        return f"{self.color}{self.text}{_PLAIN}" if color and self.color else self.text


def final_line(vertex: VertexState, width: int) -> ScreenLine:
    """What stays of a step that ended."""
    time = seconds_text(vertex.elapsed(vertex.started))
    if vertex.cancelled:
        return _row(f" => CANCELED {vertex.name}", time, width, _YELLOW)
    if vertex.error:
        return _row(f" => ERROR {vertex.name}", time, width, _RED)
    return _row(f" => {'CACHED ' if vertex.cached else ''}{vertex.name}", time, width, _CYAN)


def warning_lines(message: str, hint: str, width: int) -> list[ScreenLine]:
    texts = [f" => WARN: {message}", *([f" => => {hint}"] if hint else [])]
    return [ScreenLine(clip(text, width), _YELLOW) for text in texts]


def summary(vertexes: Sequence[VertexState], elapsed_s: float, width: int) -> ScreenLine:
    """The first line of the view."""
    done = sum(not vertex.running for vertex in vertexes)
    text = f"[+] Building {seconds_text(elapsed_s)} ({done}/{len(vertexes)})"
    return ScreenLine(clip(text, width))


def live_lines(
    vertexes: Sequence[VertexState],
    logs: Mapping[int, deque[str]],
    now: float,
    *,
    width: int,
    height: int,
) -> list[ScreenLine]:
    """The running steps in at most `height` lines.

    Steps come first: where the space is short, their output goes, then transfers, and then the
    steps that started last are only counted.
    """
    running = [vertex for vertex in vertexes if vertex.running or _moving(vertex)]
    for logged, moved in ((LOG_LINES, 8), (2, 4), (0, 4), (0, 0)):
        blocks = [_block(one, logs.get(one.span, ()), now, width, logged, moved) for one in running]
        if sum(map(len, blocks)) <= height:
            return [line for block in blocks for line in block]
    shown = max(height - 1, 0)
    lines = [line for block in blocks[:shown] for line in block]
    more = len(running) - shown
    return [*lines, ScreenLine(clip(f" => .. and {more} more", width), _FAINT)][:height]


def _block(
    vertex: VertexState, log: Sequence[str], now: float, width: int, logged: int, moved: int
) -> list[ScreenLine]:
    first = f" => {vertex.name}"
    if vertex.current or vertex.total:
        first += f" {_moved(vertex, now)}"
    lines = [_row(first, seconds_text(vertex.elapsed(now)), width)]
    transfers = _moving(vertex)
    for transfer in transfers[:moved]:
        text = f" => => {transfer.name} {_moved(transfer, now)}"
        lines.append(_row(text, seconds_text(transfer.elapsed(now)), width))
    if moved and len(transfers) > moved:
        lines.append(
            ScreenLine(clip(f" => => .. and {len(transfers) - moved} more", width), _FAINT)
        )
    tail = list(log)[-logged:] if logged else []
    return lines + [ScreenLine(clip(f" => => # {text}", width), _FAINT) for text in tail]


def _moving(vertex: VertexState) -> list[Activity]:
    """Transfers may go on after their step."""
    return [one for one in vertex.transfers.values() if one.running]


def _moved(activity: Activity, now: float) -> str:
    if not activity.current:
        return f"waiting, {size_text(activity.total)}" if activity.total else ""
    return f"{moved_text(activity.current, activity.total)} {size_text(activity.speed(now))}/s"


def _row(text: str, time: str, width: int, color: str = "") -> ScreenLine:
    """`text` from the left and `time` at the right edge."""
    room = width - len(time) - 1
    if room < len(" => ") + 1:
        return ScreenLine(clip(text, width), color)
    shown = clip(text, room)
    return ScreenLine(f"{shown}{' ' * (room - cells(shown))} {time}", color)


_INTERVAL_S = 0.1  # between two frames
_SETTLED = 5  # frames for which the window must keep its size; tmux tells it every 250 ms
_REFLOWING = (
    *("TMUX", "VTE_VERSION", "KITTY_WINDOW_ID", "KONSOLE_VERSION", "WT_SESSION"),
    *("ALACRITTY_WINDOW_ID", "WEZTERM_PANE", "GHOSTTY_RESOURCES_DIR"),
)
_REFLOWING_PROGRAMS = {"Apple_Terminal", "iTerm.app", "vscode", "WezTerm", "ghostty", "tmux"}
_REFLOWING_TERMS = ("tmux", "xterm-kitty", "alacritty", "foot", "xterm-ghostty", "wezterm")
_NO_WRAP, _WRAP = "\x1b[?7l", "\x1b[?7h"  # for a window that shrinks just before a frame
_HIDE_CURSOR, _SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"


class TtySink:
    """Draws on a terminal until it is closed. Never raises: what cannot be drawn is not drawn.

    `reflows` tells that the terminal breaks lines anew when its window gets narrower. Where that is
    not known it is taken not to: a rest of a frame may stay then, but no finished step is erased.
    """

    def __init__(
        self,
        stream: TextIO,
        *,
        color: bool = True,
        reflows: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._stream = stream
        self._color = color
        self._reflows = reflows
        self._clock = clock
        self._lock = threading.Lock()
        self._board = Board()
        self._logs: dict[int, deque[str]] = {}
        self._ended: list[VertexState | Warned] = []
        self._drawn: list[str] = []
        self._window = self._size()
        self._waiting = 0
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
        if isinstance(found, VertexState):
            self._ended.append(found)
            self._logs.pop(found.span, None)

    def _keep_drawing(self) -> None:
        while not self._closing.is_set():
            self._draw()
            self._closing.wait(_INTERVAL_S)

    def _draw(self, last: bool = False) -> None:
        if not self._settled() and not last:
            return
        width, height = self._window
        with self._lock:
            lasting = [line for one in self._ended for line in _lasting(one, width)]
            self._ended.clear()
            live = self._live(width, 0 if last else height)
        parts = [_HIDE_CURSOR, _erase(self._drawn, width + 1 if self._reflows else 0)]
        painted = [line.painted(self._color) + "\n" for line in (*lasting, *live)]
        parts += painted if self._reflows else [_NO_WRAP, *painted, _WRAP]
        if last:
            parts.append(_SHOW_CURSOR)
        self._drawn = [line.text for line in live if not last]
        with suppress(OSError, ValueError):
            self._stream.write("".join(parts))
            self._stream.flush()

    def _live(self, width: int, height: int) -> list[ScreenLine]:
        now, vertexes = self._clock(), list(self._board.vertexes.values())
        first = summary(vertexes, now - self._started, width)
        if height < 2:
            return [first]
        return [
            first,
            *live_lines(vertexes, self._logs, now, width=width, height=height - 2),
        ]

    def _settled(self) -> bool:
        """Whether the window has kept its size for a moment; takes over its size."""
        before, self._window = self._window, self._size()
        if before != self._window:
            self._waiting = _SETTLED
        self._waiting = max(self._waiting - 1, 0)
        return self._waiting == 0

    def _size(self) -> tuple[int, int]:
        """Columns, one less than there are: a full line would wrap on some terminals; lines."""
        with suppress(OSError, ValueError):
            size = os.get_terminal_size(self._stream.fileno())
            if size.columns and size.lines:
                return max(size.columns - 1, 1), size.lines
        return 79, 24


def _lasting(one: VertexState | Warned, width: int) -> list[ScreenLine]:
    if isinstance(one, Warned):
        return warning_lines(clean(one.message), clean(one.hint), width)
    return [final_line(one, width)]


def _erase(drawn: list[str], columns: int) -> str:
    """Go back over the lines of the last frame and clear them; `columns` of a terminal that has
    broken them anew meanwhile, 0 for one that leaves each line a row.

    The first cell is left to be written over: tmux keeps a screen that is cleared from its first
    cell in its history, and each frame that fills the window would stay there.
    """
    rows = sum(_rows(text, columns) for text in drawn) if columns else len(drawn)
    return f"\r\x1b[{rows}A\x1b[C\x1b[J\r" if rows else "\r"


def _rows(text: str, columns: int) -> int:
    """How many rows a line takes; a wide character is never broken."""
    rows, used = 1, 0
    for width in map(cells, text):
        if used + width > columns:
            rows, used = rows + 1, 0
        used += width
    return rows


def reflowing(environ: Mapping[str, str]) -> bool:
    """Whether the terminal is one of those known to break lines anew."""
    if environ.get("STY") and not environ.get("TMUX"):  # GNU screen cuts them off
        return False
    return (
        any(environ.get(name) for name in _REFLOWING)
        or environ.get("TERM_PROGRAM") in _REFLOWING_PROGRAMS
        or environ.get("TERM", "").startswith(_REFLOWING_TERMS)
    )
