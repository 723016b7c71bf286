"""How the pages write times, quantities and digests: the filters of the templates.

Numbers and their units are held together by U+00A0; all times are UTC.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime

from shipline.units import shown_size

SPACE = "\N{NO-BREAK SPACE}"
_UNITS = ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s"))
_DIGEST_SHOWN = 12  # hexadecimal digits
Moment = datetime | float
"""A point in time: with a time zone, or as Unix time in seconds."""


def utc(moment: Moment) -> datetime:
    if isinstance(moment, datetime):
        return moment.astimezone(UTC)
    return datetime.fromtimestamp(moment, UTC)


def exact(moment: Moment) -> str:
    """RFC 3339 to the second, for `<time datetime>`."""
    return utc(moment).strftime("%Y-%m-%dT%H:%M:%SZ")


def absolute(moment: Moment, now: Moment) -> str:
    """`26 Nov 07:12`; a moment of another year has the year instead of the time."""
    at = utc(moment)
    same_year = at.year == utc(now).year
    return f"{at.day} {at:%b} {at:%H:%M}" if same_year else f"{at.day} {at:%b} {at.year}"


def age(moment: Moment, now: Moment) -> str:
    """`2 h ago`, `in 88 d`: one unit, rounded down."""
    seconds = (utc(now) - utc(moment)).total_seconds()
    if abs(seconds) < 1:
        return "now"
    shown = _in_units(abs(seconds), 1)
    return f"{shown} ago" if seconds > 0 else f"in {shown}"


def span(seconds: float) -> str:
    """A time that is left or compared, in two units: `3 h 40 min`."""
    return _in_units(max(0.0, seconds), 2)


def duration(seconds: float) -> str:
    """How long something took: `240 ms`, `38.6 s`, `1 min 27 s`."""
    if seconds < 0.9995:
        return f"{max(0.0, seconds) * 1000:.0f}{SPACE}ms"
    return f"{seconds:.1f}{SPACE}s" if seconds < 59.95 else span(round(seconds))


def size(number: int) -> str:
    """Bytes in powers of 1000."""
    return shown_size(number).replace(" ", SPACE)


def count(number: int) -> str:
    """`12,480`."""
    return f"{number:,}"


def percent(part: float, whole: float) -> str:
    """A share, without decimals: `41 %`; empty if there is no whole."""
    return f"{100 * part / whole:.0f}{SPACE}%" if whole else ""


def short(digest: object) -> str:
    """12 digits of a digest or commit, without `sha256:`; other algorithms keep their name."""
    algorithm, colon, encoded = str(digest).rpartition(":")
    name = "" if algorithm == "sha256" else algorithm + colon
    return name + encoded[:_DIGEST_SHOWN]


def axis(seconds: float) -> float:
    """Where the time axis of a waterfall ends: the next of 4·{1, 2.5, 5}·10ⁿ, so that its four
    parts end on round numbers.
    """
    quarter = max(seconds, 1e-3) / 4
    power = 10.0 ** math.floor(math.log10(quarter))
    return 4 * power * next(step for step in (1, 2.5, 5, 10) if step * power >= quarter * 0.999999)


def tick(seconds: float) -> str:
    """A mark on an axis: `250 ms`, `10 s`, `5 min`."""
    if seconds >= 120:
        return span(seconds)
    number, unit = (seconds, "s") if seconds >= 1 or not seconds else (seconds * 1000, "ms")
    return f"{number:.4g}{SPACE}{unit}"


def polyline(values: Sequence[float], top: float, width: float = 100, height: float = 30) -> str:
    """The points of an SVG polyline through `values`, from 0 at the bottom to `top`."""
    step = width / max(1, len(values) - 1)
    top = top or 1
    return " ".join(
        f"{number * step:.4g},{height * (1 - min(value, top) / top) + 1:.4g}"
        for number, value in enumerate(values)
    )


def _in_units(seconds: float, most: int) -> str:
    """At most `most` neighbouring units, none of them zero but the only one."""
    whole = int(seconds)
    for number, (length, _) in enumerate(_UNITS):
        if whole >= length or length == 1:
            parts: list[str] = []
            for each, name in _UNITS[number : number + most]:
                value, whole = divmod(whole, each)
                if value or not parts:
                    parts.append(f"{value}{SPACE}{name}")
            return " ".join(parts)
    raise AssertionError("the last unit is one second")
