"""Quantities as people write and read them: `90s`, `14d`; `500MB`, `4GiB`; `2027-01-31`; `true`."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from typing import Self

from msgspec import Struct

_SPANS_MS = {"w": 604_800_000, "d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}
_SPAN = "".join(rf"(?:([0-9]{{1,9}}){unit})?" for unit in _SPANS_MS)
_SIZE = r"([0-9]{1,15}(?:\.[0-9]{1,3})?) ?([kmgt]?i?)b?"
_POWERS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}
_SHOWN = ("B", "kB", "MB", "GB", "TB")
_GO_SIZE = r"([0-9]{1,18}(?:\.[0-9]+)?) ?(?:b|([kmgtp])(?:i?b)?)?"
_BOOLEANS = {
    text: value
    for value, texts in ((True, "1 t T true True TRUE"), (False, "0 f F false False FALSE"))
    for text in texts.split()
}


class Duration(Struct, frozen=True, order=True):
    """A duration in whole milliseconds."""

    milliseconds: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises ValueError for text without a unit, and for zero."""
        match = re.fullmatch(_SPAN, text.strip())
        numbers = match.groups() if match else ()
        total = sum(
            int(number or 0) * unit
            for number, unit in zip(numbers, _SPANS_MS.values(), strict=False)
        )
        if not total:
            raise ValueError(f"{text!r} is not a duration: write 90s, 5m, 1h30m or 14d")
        return cls(total)

    @property
    def seconds(self) -> float:
        return self.milliseconds / 1000

    def __str__(self) -> str:
        parts, rest = [], self.milliseconds
        for name, unit in _SPANS_MS.items():
            count, rest = divmod(rest, unit)
            if count:
                parts.append(f"{count}{name}")
        return "".join(parts)


class ByteSize(Struct, frozen=True, order=True):
    """A number of bytes; `MB` counts in thousands and `MiB` in 1024s (IEC 80000-13), as do those in
    lower case, like the `10gb` of docker's examples.
    """

    bytes: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises ValueError for anything else."""
        match = re.fullmatch(_SIZE, text.strip(), re.IGNORECASE | re.ASCII)
        if match is None:
            raise ValueError(f"{text!r} is not a size: write 500MB, 4GiB or a number of bytes")
        number, unit = match[1], match[2].upper()
        base = 1024 if unit.endswith("I") else 1000
        return cls(round(float(number) * base ** _POWERS[unit.removesuffix("I")]))

    def __str__(self) -> str:
        for unit, power in reversed(_POWERS.items()):
            for base, letter in ((1024, "i"), (1000, "")):
                count, rest = divmod(self.bytes, base**power)
                if power and count and not rest:
                    return f"{count}{unit}{letter}B"
        return f"{self.bytes}B"


class Day(Struct, frozen=True, order=True):
    """A day in UTC, over when the next one begins."""

    date: date

    @classmethod
    def parse(cls, text: str) -> Self:
        """`2026-12-31`. Raises ValueError."""
        try:
            return cls(date.fromisoformat(text.strip()))
        except ValueError:
            raise ValueError(f"not a date: {text[:40]!r}; write it like 2026-12-31") from None

    def over(self, now: datetime) -> bool:
        """Whether `now`, which has a time zone, is after the day."""
        return now.astimezone(UTC).date() > self.date

    def __str__(self) -> str:
        return self.date.isoformat()


def parse_boolean(text: str) -> bool | None:
    """A boolean as Go's strconv.ParseBool reads it, and with it the flags, options of mounts, URLs
    and variables of docker, buildx and BuildKit; None for other text.
    """
    return _BOOLEANS.get(text)


def as_unicode(text: str) -> str:
    """The text with U+FFFD for bytes that were not UTF-8 (the surrogates of PEP 383), as in Go."""
    return text if text.isascii() else re.sub("[\ud800-\udfff]", "\ufffd", text)


def counted(count: int, singular: str, many: str = "") -> str:
    """`1 file`, `2,000 files`; `many` is the plural if not `one` with an s."""
    return f"{count:,} {singular if count == 1 else many or singular + 's'}"


def rfc3339(at: float, precision: str = "seconds") -> str:
    """Unix time in UTC as RFC 3339 writes it; `precision` as `timespec` of datetime.isoformat."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec=precision).replace("+00:00", "Z")


def shown_time(moment: datetime) -> str:
    """A moment for people, in UTC: `2026-11-30 14:05:00 UTC`."""
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def shown_size(number: int) -> str:
    """Bytes for people, in decimal units: `12.3 MB`, `800 B`."""
    size = float(number)
    for unit in _SHOWN[:-1]:
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} {_SHOWN[-1]}"


def parse_go_size(text: str) -> int | None:
    """Bytes as RAMInBytes of docker's go-units reads them, and with it flags and mounts of docker:
    `64m`, `1.5GiB`, in powers of 1024; None for other text.
    """
    match = re.fullmatch(_GO_SIZE, text.strip(), re.IGNORECASE)
    if match is None:
        return None
    return int(float(match[1]) * 1024 ** " kmgtp".index((match[2] or " ").lower()))


def go_size(size: float, step: int = 1000) -> str:
    """Bytes as docker's go-units writes them, in four digits: `4.096kB`; `3.346GiB` with a step of
    1024.
    """
    units = ("B", "kB", "MB", "GB", "TB", "PB")
    if step == 1024:
        units = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
    power = 0
    while size >= step and power < len(units) - 1:
        size, power = size / step, power + 1
    return f"{size:.4g}{units[power]}"
