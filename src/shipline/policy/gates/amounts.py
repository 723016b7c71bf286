"""Amounts as they are told to people."""

from __future__ import annotations

from datetime import timedelta

_UNITS = (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1))  # seconds


def shown_age(age: timedelta) -> str:
    """The two largest units: `3d4h`, `12m`, `0s`."""
    left, words = max(0, round(age.total_seconds())), []
    for unit, length in _UNITS:
        count, left = divmod(left, length)
        words.append(f"{count}{unit}" if count else "")
    first = next((place for place, word in enumerate(words) if word), None)
    return "0s" if first is None else "".join(words[first : first + 2])
