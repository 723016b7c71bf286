"""Text for terminals: escaping untrusted output, fitting it to a width, formatting numbers."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

_COLOR = r"\x1b\[[0-9;:]*m"
_SEQUENCE = r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[ -/]*[0-~])"
_UNSAFE = "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")
_TAB = 8
_MAX_LINE = 1 << 16  # bytes; a longer line is broken


class OutputLines:
    """Puts the pieces in which a command writes stdout and stderr together to lines, without their
    ends; each stream on its own.
    """

    def __init__(self) -> None:
        self._rest: dict[int, bytearray] = {}

    def take(self, data: bytes, stream: int) -> Iterator[bytes]:
        """The lines that `data` completes."""
        *lines, rest = (self._rest.pop(stream, bytearray()) + data).split(b"\n")
        yield from map(bytes, lines)
        if len(rest) > _MAX_LINE:
            yield bytes(rest)
        elif rest:
            self._rest[stream] = rest

    def rest(self) -> Iterator[tuple[int, bytes]]:
        """What is left, with its stream: text without a line end."""
        left, self._rest = self._rest, {}
        yield from ((stream, bytes(text)) for stream, text in left.items())


def clean(data: bytes | str) -> str:
    """One line without control sequences.

    Colours and cursor movements are dropped; other control and direction characters and invalid
    UTF-8 are escaped. Of a line overwritten after a carriage return, the last version is kept.
    """
    text = data.decode("utf-8", "backslashreplace") if isinstance(data, bytes) else data
    if text.isascii() and text.isprintable():
        return text
    text = re.sub(_SEQUENCE, "", re.sub(_COLOR, "", text))
    written = [part for part in text.replace("\n", " ").split("\r") if part]
    return re.sub(_UNSAFE, _escaped, (written or [""])[-1]).expandtabs(_TAB)


def _escaped(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode()


def cells(text: str) -> int:
    """The width of the text in columns."""
    return len(text) if text.isascii() else sum(map(_cell, text))


def _cell(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def clip(text: str, width: int) -> str:
    """The text, truncated to `width` columns."""
    if width <= 0:
        return ""
    if cells(text) <= width:
        return text
    kept, used = 0, 0
    for character in text:
        used += _cell(character)
        if used > width - 1:
            break
        kept += 1
    return text[:kept] + "~"


def wrap(text: str, width: int) -> list[str]:
    """The text in lines of at most `width` columns, broken between words where possible."""
    lines: list[str] = []
    line: str | None = None
    for word in text.split(" "):
        joined = word if line is None else f"{line} {word}"
        if cells(joined) <= width:
            line = joined
            continue
        if line is not None:
            lines.append(line)
        *full, line = _pieces(word, width)
        lines += full
    return [*lines, line or ""]


def _pieces(word: str, width: int) -> list[str]:
    pieces, piece = [], ""
    for character in word:
        if cells(piece + character) > width and piece:
            pieces.append(piece)
            piece = ""
        piece += character
    return [*pieces, piece]


def size_text(count: float) -> str:
    """Bytes for people, in powers of 1000: 12.34MB."""
    for unit in _UNITS[:-1]:
        if count < 1000:
            return f"{count:.0f}{unit}" if unit == "B" else f"{count:.2f}{unit}"
        count /= 1000
    return f"{count:.2f}{_UNITS[-1]}"


def progress_text(current: int, total: int) -> str:
    """`12.30MB / 40.20MB 30%`, or the first alone if the total is unknown."""
    if not total:
        return size_text(current)
    return f"{size_text(current)} / {size_text(total)} {min(100 * current // total, 100)}%"


def seconds_text(elapsed_s: float) -> str:
    return f"{max(elapsed_s, 0.0):.1f}s"
