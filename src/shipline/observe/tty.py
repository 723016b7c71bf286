"""Progress on a terminal: finished steps scroll away, running ones are redrawn below them.

Events only update the board; one thread draws it, at most ten times a second, so that a thousand
events cost one frame and timers advance without events. Nothing is drawn while the window is being
resized: each such frame would leave its first lines behind.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TextIO

from msgspec import Struct

from shipline.events import Event, Finished, Logged, Progress, Started, Warned
from shipline.observe.board import Activity, Board, VertexState, builder_of
from shipline.observe.text import cells, clean, clip, progress_text, seconds_text, size_text
from shipline.tasks import TaskGroup

LOG_LINES = 6  # last lines of output of a running step
_RED, _YELLOW, _CYAN, _FAINT, _PLAIN = "\x1b[31m", "\x1b[33m", "\x1b[36m", "\x1b[2m", "\x1b[0m"
_CANCELLED = "\x1b[0;33m"
_ROLES = {"run": _CYAN, "error": _RED, "warning": _YELLOW, "cancel": _CANCELLED}
_COLORS = ("black", "red", "green", "yellow", "blue", "magenta", "cyan", "white")


class ScreenLine(Struct, frozen=True):
    """One line on the screen; `color` is the sequence that precedes it."""

    text: str
    color: str = ""

    def painted(self, color: bool, colors: Mapping[str, str]) -> str:
        """With `color`, and the colors that `colors` has instead of ours."""
        if not color or not self.color:
            return self.text
        return f"{colors.get(self.color, self.color)}{self.text}{_PLAIN}"


def palette(text: str) -> dict[str, str]:
    """What BUILDKIT_COLORS has instead of our colours, `run=green:error=255,0,0`; what cannot be
    read is left out, as by BuildKit.
    """
    found = {}
    for role, _, value in (one.partition("=") for one in text.split(":")):
        parts = value.split(",")
        if value.lower() in _COLORS:
            code = str(30 + _COLORS.index(value.lower()))
        elif len(parts) == 3 and all(one.isdecimal() and int(one) < 256 for one in parts):
            code = ";".join(("38", "2", *parts))
        else:
            continue
        if role in _ROLES:
            found[_ROLES[role]] = f"\x1b[{code}m"
    return found


def final_line(vertex: VertexState, width: int) -> ScreenLine:
    """The line that remains of a finished step."""
    time = seconds_text(vertex.elapsed(vertex.started))
    if vertex.cancelled:
        return _row(f" => CANCELED {vertex.name}", time, width, _CANCELLED)
    if vertex.error:
        return _row(f" => ERROR {vertex.name}", time, width, _RED)
    return _row(f" => {'CACHED ' if vertex.cached else ''}{vertex.name}", time, width, _CYAN)


def warning_lines(message: str, hint: str, width: int) -> list[ScreenLine]:
    texts = [f" => WARN: {message}", *([f" => => {hint}"] if hint else [])]
    return [ScreenLine(clip(text, width), _YELLOW) for text in texts]


def summary(
    vertexes: Sequence[VertexState], elapsed_s: float, width: int, builder: str = ""
) -> ScreenLine:
    """The first line of a frame, with the builder at its right edge."""
    done = sum(not vertex.running for vertex in vertexes)
    text = f"[+] Building {seconds_text(elapsed_s)} ({done}/{len(vertexes)})"
    return _row(text, builder, width) if builder else ScreenLine(clip(text, width))


def live_lines(
    vertexes: Sequence[VertexState],
    logs: Mapping[int, deque[str]],
    now: float,
    *,
    width: int,
    height: int,
    log_lines: int = LOG_LINES,
) -> list[ScreenLine]:
    """The running steps in at most `height` lines.

    If space is short, output is dropped first, then transfers; the steps that started last are then
    only counted.
    """
    running = [vertex for vertex in vertexes if vertex.running or _running_transfers(vertex)]
    for logged, moved in ((log_lines, 8), (min(log_lines, 2), 4), (0, 4), (0, 0)):
        blocks = [
            _block(vertex, logs.get(vertex.span, ()), now, width, logged, moved)
            for vertex in running
        ]
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
        first += f" {_transfer_text(vertex, now)}"
    lines = [_row(first, seconds_text(vertex.elapsed(now)), width)]
    transfers = _running_transfers(vertex)
    for transfer in transfers[:moved]:
        text = f" => => {transfer.name} {_transfer_text(transfer, now)}"
        lines.append(_row(text, seconds_text(transfer.elapsed(now)), width))
    if moved and len(transfers) > moved:
        lines.append(
            ScreenLine(clip(f" => => .. and {len(transfers) - moved} more", width), _FAINT)
        )
    tail = list(log)[-logged:] if logged else []
    return lines + [ScreenLine(clip(f" => => # {text}", width), _FAINT) for text in tail]


def _running_transfers(vertex: VertexState) -> list[Activity]:
    """Running transfers, which may outlive their step."""
    return [transfer for transfer in vertex.transfers.values() if transfer.running]


def _transfer_text(activity: Activity, now: float) -> str:
    if not activity.current:
        return f"waiting, {size_text(activity.total)}" if activity.total else ""
    speed, left = f"{size_text(activity.speed(now))}/s", activity.left(now)
    return f"{progress_text(activity.current, activity.total)} {speed}" + (
        f", {seconds_text(left)} left" if left >= 1 else ""
    )


def _row(text: str, time: str, width: int, color: str = "") -> ScreenLine:
    """`text` at the left and `time` at the right edge."""
    available = width - len(time) - 1
    if available < len(" => ") + 1:
        return ScreenLine(clip(text, width), color)
    shown = clip(text, available)
    return ScreenLine(f"{shown}{' ' * (available - cells(shown))} {time}", color)


_INTERVAL_S = 0.1  # between two frames
_SETTLED = 5  # frames of constant window size before drawing; tmux reports it every 250 ms
_REFLOWING = (
    *("TMUX", "VTE_VERSION", "KITTY_WINDOW_ID", "KONSOLE_VERSION", "WT_SESSION"),
    *("ALACRITTY_WINDOW_ID", "WEZTERM_PANE", "GHOSTTY_RESOURCES_DIR"),
)
_REFLOWING_PROGRAMS = {"Apple_Terminal", "iTerm.app", "vscode", "WezTerm", "ghostty", "tmux"}
_REFLOWING_TERMS = ("tmux", "xterm-kitty", "alacritty", "foot", "xterm-ghostty", "wezterm")
_NO_WRAP, _WRAP = "\x1b[?7l", "\x1b[?7h"  # for a window that shrinks just before a frame
_HIDE_CURSOR, _SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"


class TtySink:
    """Draws on a terminal until it is closed. Never raises: drawing errors are ignored.

    `reflows` tells that the terminal rewraps lines when its window narrows. If that is unknown,
    pass False: parts of a frame may remain then, but no finished step is erased. A running step has
    its last `log_lines` lines of output; `colors` is a `palette`.
    """

    def __init__(
        self,
        stream: TextIO,
        *,
        color: bool = True,
        reflows: bool = False,
        log_lines: int = LOG_LINES,
        colors: Mapping[str, str] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._stream = stream
        self._color = color
        self._reflows = reflows
        self._log_lines = log_lines
        self._colors = colors or {}
        self._clock = clock
        self._lock = threading.Lock()
        self._board = Board()
        self._logs: dict[int, deque[str]] = {}
        self._finished: list[VertexState | Warned] = []
        self._drawn: list[str] = []
        self._window = self._size()
        self._unstable_frames = 0
        self._started = clock()
        self._builder = ""
        self._closing = threading.Event()
        self._threads: TaskGroup | None = None

    def __call__(self, event: Event) -> None:
        with self._lock:
            self._apply(event)
        if self._threads is None:
            self._threads = TaskGroup()  # not entered: it ends in close(), not with a block
            self._threads.start(self._keep_drawing)

    def close(self) -> None:
        """Draw the final state and show the cursor."""
        self._closing.set()
        if self._threads is not None:
            self._threads.join()
            self._draw(last=True)

    def _apply(self, event: Event) -> None:
        if isinstance(event, Started):
            if builder := builder_of(event):
                name, driver = builder
                self._builder = f"{driver}:{name}"
            self._board.start(event)
        elif isinstance(event, Progress):
            self._board.progress(event)
        elif isinstance(event, Logged):
            self._log(event)
        elif isinstance(event, Warned):
            self._finished.append(event)
        else:
            self._finish(event)

    def _log(self, event: Logged) -> None:
        vertex = self._board.vertex(event.span)
        for line in self._board.output(event):
            if vertex is not None and (text := clean(line)):
                self._logs.setdefault(vertex.span, deque(maxlen=self._log_lines)).append(text)

    def _finish(self, event: Finished) -> None:
        activity = self._board.finish(event)
        if isinstance(activity, VertexState):
            self._finished.append(activity)
            self._logs.pop(activity.span, None)

    def _keep_drawing(self) -> None:
        while not self._closing.is_set():
            self._draw()
            self._closing.wait(_INTERVAL_S)

    def _draw(self, last: bool = False) -> None:
        if not self._settled() and not last:
            return
        width, height = self._window
        with self._lock:
            final = [line for event in self._finished for line in _final_lines(event, width)]
            self._finished.clear()
            live = self._live(width, 0 if last else height)
        parts = [_HIDE_CURSOR, _erase(self._drawn, width + 1 if self._reflows else 0)]
        lines = (*final, *live)
        painted = [f"{line.painted(self._color, self._colors)}\n" for line in lines]
        parts += painted if self._reflows else [_NO_WRAP, *painted, _WRAP]
        if last:
            parts.append(_SHOW_CURSOR)
        self._drawn = [line.text for line in live if not last]
        with suppress(OSError, ValueError):
            self._stream.write("".join(parts))
            self._stream.flush()

    def _live(self, width: int, height: int) -> list[ScreenLine]:
        now, vertexes = self._clock(), list(self._board.vertexes.values())
        first = summary(vertexes, now - self._started, width, self._builder)
        if height < 2:
            return [first]
        shown = live_lines(
            vertexes, self._logs, now, width=width, height=height - 2, log_lines=self._log_lines
        )
        return [first, *shown]

    def _settled(self) -> bool:
        """Whether the window size is stable; updates the size."""
        previous, self._window = self._window, self._size()
        if previous != self._window:
            self._unstable_frames = _SETTLED
        self._unstable_frames = max(self._unstable_frames - 1, 0)
        return self._unstable_frames == 0

    def _size(self) -> tuple[int, int]:
        """(columns, lines), one column fewer than there are: some terminals wrap a full line."""
        with suppress(OSError, ValueError):
            size = os.get_terminal_size(self._stream.fileno())
            if size.columns and size.lines:
                return max(size.columns - 1, 1), size.lines
        return 79, 24


def _final_lines(event: VertexState | Warned, width: int) -> list[ScreenLine]:
    if isinstance(event, Warned):
        return warning_lines(clean(event.message), clean(event.hint), width)
    return [final_line(event, width)]


def _erase(drawn: list[str], columns: int) -> str:
    """The sequence that clears the last frame; `columns` of a terminal that rewraps lines, else 0.

    The first cell is not cleared: tmux saves a screen that is cleared from its first cell to its
    history, which would keep every frame that fills the window.
    """
    rows = sum(_rows(text, columns) for text in drawn) if columns else len(drawn)
    return f"\r\x1b[{rows}A\x1b[C\x1b[J\r" if rows else "\r"


def _rows(text: str, columns: int) -> int:
    """The rows that a line takes; a wide character is never split."""
    rows, used = 1, 0
    for width in map(cells, text):
        if used + width > columns:
            rows, used = rows + 1, 0
        used += width
    return rows


def reflowing(environ: Mapping[str, str]) -> bool:
    """Whether the terminal is known to rewrap lines."""
    if environ.get("STY") and not environ.get("TMUX"):  # GNU screen truncates them
        return False
    return (
        any(environ.get(name) for name in _REFLOWING)
        or environ.get("TERM_PROGRAM") in _REFLOWING_PROGRAMS
        or environ.get("TERM", "").startswith(_REFLOWING_TERMS)
    )
