"""What the live view shows at one moment: a pure function from the board to lines of text."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from shipline.observe.board import Activity, Vertex
from shipline.observe.text import cells, clip, moved_text, seconds_text, size_text

LOG_LINES = 6  # last lines of output that a running step shows
_RED, _YELLOW, _CYAN, _FAINT, _PLAIN = "\x1b[31m", "\x1b[33m", "\x1b[36m", "\x1b[2m", "\x1b[0m"


@dataclass(frozen=True, slots=True)
class Line:
    """One line on the screen; `color` is the sequence that precedes it."""

    text: str
    color: str = ""

    def painted(self, color: bool) -> str:
        return f"{self.color}{self.text}{_PLAIN}" if color and self.color else self.text


def final_line(vertex: Vertex, width: int) -> Line:
    """What stays of a step that ended."""
    time = seconds_text(vertex.elapsed(vertex.started))
    if vertex.cancelled:
        return _row(f" => CANCELED {vertex.name}", time, width, _YELLOW)
    if vertex.error:
        return _row(f" => ERROR {vertex.name}", time, width, _RED)
    return _row(f" => {'CACHED ' if vertex.cached else ''}{vertex.name}", time, width, _CYAN)


def warning_lines(message: str, hint: str, width: int) -> list[Line]:
    texts = [f" => WARN: {message}", *([f" => => {hint}"] if hint else [])]
    return [Line(clip(text, width), _YELLOW) for text in texts]


def summary(vertexes: Sequence[Vertex], elapsed_s: float, width: int) -> Line:
    """The first line of the view."""
    done = sum(not vertex.running for vertex in vertexes)
    text = f"[+] Building {seconds_text(elapsed_s)} ({done}/{len(vertexes)})"
    return Line(clip(text, width))


def live_lines(
    vertexes: Sequence[Vertex],
    logs: Mapping[int, deque[str]],
    now: float,
    *,
    width: int,
    height: int,
) -> list[Line]:
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
    return [*lines, Line(clip(f" => .. and {more} more", width), _FAINT)][:height]


def _block(
    vertex: Vertex, log: Sequence[str], now: float, width: int, logged: int, moved: int
) -> list[Line]:
    first = f" => {vertex.name}"
    if vertex.current or vertex.total:
        first += f" {_moved(vertex, now)}"
    lines = [_row(first, seconds_text(vertex.elapsed(now)), width)]
    transfers = _moving(vertex)
    for transfer in transfers[:moved]:
        text = f" => => {transfer.name} {_moved(transfer, now)}"
        lines.append(_row(text, seconds_text(transfer.elapsed(now)), width))
    if moved and len(transfers) > moved:
        lines.append(Line(clip(f" => => .. and {len(transfers) - moved} more", width), _FAINT))
    tail = list(log)[-logged:] if logged else []
    return lines + [Line(clip(f" => => # {text}", width), _FAINT) for text in tail]


def _moving(vertex: Vertex) -> list[Activity]:
    """Transfers may go on after their step."""
    return [one for one in vertex.transfers.values() if one.running]


def _moved(activity: Activity, now: float) -> str:
    if not activity.current:
        return f"waiting, {size_text(activity.total)}" if activity.total else ""
    return f"{moved_text(activity.current, activity.total)} {size_text(activity.speed(now))}/s"


def _row(text: str, time: str, width: int, color: str = "") -> Line:
    """`text` from the left and `time` at the right edge."""
    room = width - len(time) - 1
    if room < len(" => ") + 1:
        return Line(clip(text, width), color)
    shown = clip(text, room)
    return Line(f"{shown}{' ' * (room - cells(shown))} {time}", color)
