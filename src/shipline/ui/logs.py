"""What the commands of a step wrote, as numbered lines.

Lines of stdout and stderr are put together separately, as they come in pieces; they are in the
order in which they ended. Escape codes are dropped, since pages are not terminals.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice

from msgspec import Struct

from shipline.history import LogLine
from shipline.observe import OutputLines, clean

PAGE = 1000  # lines

Line = tuple[int, str]
"""The stream, 1 for stdout and 2 for stderr, and the text."""


class LogPage(Struct, frozen=True):
    """Lines of a log from number `start` on, counted from 1, of `total`."""

    start: int
    lines: tuple[Line, ...]
    total: int

    @property
    def end(self) -> int:
        return self.start + len(self.lines) - 1


def raw_lines(pieces: Iterable[LogLine]) -> Iterator[tuple[int, bytes]]:
    """Whole lines with their stream, without the line end; what is left comes last."""
    lines = OutputLines()
    for piece in pieces:
        for line in lines.take(piece.data, piece.stream):
            yield piece.stream, line
    yield from lines.rest()


def page_of(pieces: Iterable[LogLine], start: int, count: int = PAGE) -> LogPage:
    """Lines `start` and following."""
    start = max(start, 1)
    lines = raw_lines(pieces)
    before = sum(1 for _ in islice(lines, start - 1))
    shown = tuple((stream, clean(line)) for stream, line in islice(lines, count))
    after = sum(1 for _ in lines)
    return LogPage(start, shown, before + len(shown) + after)


def tail(pieces: Iterable[LogLine], count: int) -> LogPage:
    """The last lines."""
    total = 0
    kept: deque[tuple[int, bytes]] = deque(maxlen=count)
    for line in raw_lines(pieces):
        total += 1
        kept.append(line)
    lines = tuple((stream, clean(line)) for stream, line in kept)
    return LogPage(total - len(lines) + 1, lines, total)


def text(pieces: Iterable[LogLine]) -> Iterator[bytes]:
    """The log as it was written, in pieces of some size."""
    held = bytearray()
    for _, line in raw_lines(pieces):
        held += line + b"\n"
        if len(held) > 1 << 18:
            yield bytes(held)
            held.clear()
    if held:
        yield bytes(held)
