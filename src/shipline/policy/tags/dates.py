"""Dates in the tokens of moment.js, as docker/metadata-action's users write them."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, tzinfo

_MONTHS = "January February March April May June July August September October November December"
_DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday"
_TOKENS: dict[str, Callable[[datetime], str]] = {
    "YYYY": lambda at: f"{at.year:04}",
    "YY": lambda at: f"{at.year % 100:02}",
    "Q": lambda at: str((at.month + 2) // 3),
    "MMMM": lambda at: _MONTHS.split()[at.month - 1],
    "MMM": lambda at: _MONTHS.split()[at.month - 1][:3],
    "MM": lambda at: f"{at.month:02}",
    "M": lambda at: str(at.month),
    "DDDD": lambda at: f"{at.timetuple().tm_yday:03}",
    "DDD": lambda at: str(at.timetuple().tm_yday),
    "DD": lambda at: f"{at.day:02}",
    "D": lambda at: str(at.day),
    "dddd": lambda at: _DAYS.split()[at.weekday()],
    "ddd": lambda at: _DAYS.split()[at.weekday()][:3],
    "dd": lambda at: _DAYS.split()[at.weekday()][:2],
    "d": lambda at: str(at.isoweekday() % 7),
    "E": lambda at: str(at.isoweekday()),
    "GGGG": lambda at: f"{at.isocalendar().year:04}",
    "WW": lambda at: f"{at.isocalendar().week:02}",
    "W": lambda at: str(at.isocalendar().week),
    "HH": lambda at: f"{at.hour:02}",
    "H": lambda at: str(at.hour),
    "hh": lambda at: f"{(at.hour + 11) % 12 + 1:02}",
    "h": lambda at: str((at.hour + 11) % 12 + 1),
    "A": lambda at: "PM" if at.hour > 11 else "AM",
    "a": lambda at: "pm" if at.hour > 11 else "am",
    "mm": lambda at: f"{at.minute:02}",
    "m": lambda at: str(at.minute),
    "ss": lambda at: f"{at.second:02}",
    "s": lambda at: str(at.second),
    "SSS": lambda at: f"{at.microsecond // 1000:03}",
    "ZZ": lambda at: f"{at:%z}",
    "Z": lambda at: f"{at:%z}"[:3] + ":" + f"{at:%z}"[3:],
    "X": lambda at: str(int(at.timestamp())),
    "x": lambda at: str(int(at.timestamp() * 1000)),
}
_PATTERN = re.compile(
    r"\[(?P<literal>[^\]]*)\]|(?P<token>"
    + "|".join(sorted(_TOKENS, key=lambda token: (-len(token), token)))
    + ")"
)
_ISO = "YYYY-MM-DDTHH:mm:ssZ"


def render_date(seconds: int, pattern: str = "", zone: str = "") -> str:
    """The moment `seconds` after 1970 in the words of `pattern`; UTC where no `zone` is named.

    Raises ValueError for a zone that is not known.
    """
    at = datetime.fromtimestamp(seconds, _zone(zone) if zone else UTC)
    return _PATTERN.sub(
        lambda found: _TOKENS[found["token"]](at) if found["token"] else found["literal"],
        pattern or _ISO,
    )


def _zone(name: str) -> tzinfo:
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError  # slow to import, and seldom asked for

    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError(f"there is no time zone {name!r}") from error
