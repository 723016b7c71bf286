"""Amounts as they are told to people."""

from __future__ import annotations

from datetime import timedelta

_UNITS = (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1))  # seconds
_SIZES = (("GB", 10**9), ("MB", 10**6), ("kB", 10**3))  # bytes


def shown_age(age: timedelta) -> str:
    """The two largest units: `3d4h`, `12m`, `0s`."""
    left, words = max(0, round(age.total_seconds())), []
    for unit, length in _UNITS:
        count, left = divmod(left, length)
        words.append(f"{count}{unit}" if count else "")
    first = next((place for place, word in enumerate(words) if word), None)
    return "0s" if first is None else "".join(words[first : first + 2])


def shown_size(size: int) -> str:
    """The largest unit of thousands: `12.3 MB`, `800 B`."""
    found = next(((unit, length) for unit, length in _SIZES if size >= length), None)
    return f"{size / found[1]:.1f} {found[0]}" if found else f"{size} B"
