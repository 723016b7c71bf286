"""Durations as Go writes them: `1m30s`, `500ms`, `1.5h`.

Source: Go package time, ParseDuration and Duration.String.
"""

from __future__ import annotations

import re

_UNITS_NS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "μs": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}
_PART = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)")
_WHOLE = re.compile(rf"[+-]?({_PART.pattern})+")


def parse_duration(text: str) -> int:
    """Nanoseconds. Raises ValueError for a text that is not a duration."""
    if text.lstrip("+-") == "0" and len(text) <= 2:
        return 0
    if not _WHOLE.fullmatch(text):
        raise ValueError(f'invalid duration "{text}"')
    parts = [_scaled(number, _UNITS_NS[unit]) for number, unit in _PART.findall(text)]
    return -sum(parts) if text.startswith("-") else sum(parts)


def _scaled(number: str, unit: int) -> int:
    whole, _, fraction = number.partition(".")
    below = int(fraction or "0") * unit // int("1" + "0" * len(fraction))
    return int(whole or "0") * unit + below


def format_duration(nanoseconds: int) -> str:
    """The shortest text with the largest units: `1h0m5s`, `1.5s`, `20ms`, `0s`."""
    if nanoseconds == 0:
        return "0s"
    sign, rest = ("-", -nanoseconds) if nanoseconds < 0 else ("", nanoseconds)
    if rest < 1_000_000_000:
        unit = next(unit for unit in ("ms", "µs", "ns") if rest >= _UNITS_NS[unit])
        return f"{sign}{_decimal(rest, _UNITS_NS[unit])}{unit}"
    minutes, below = divmod(rest, _UNITS_NS["m"])
    seconds = f"{_decimal(below, _UNITS_NS['s'])}s"
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{sign}{hours}h{minutes}m{seconds}"
    return f"{sign}{minutes}m{seconds}" if minutes else f"{sign}{seconds}"


def _decimal(value: int, unit: int) -> str:
    whole, below = divmod(value, unit)
    fraction = str(below).rjust(len(str(unit)) - 1, "0").rstrip("0") if unit > 1 else ""
    return f"{whole}.{fraction}" if fraction else str(whole)
