"""Thresholds: at most so many of these, and amounts as they are shown to people."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

from shipline.gates.reports import Finding, Vulnerability
from shipline.gates.verdict import Check, Location, Number, Outcome
from shipline.gates.waivers import T, WaivedFindings
from shipline.units import counted

_UNITS = (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1))  # seconds


def shown_age(age: timedelta) -> str:
    """The two largest units: `3d4h`, `12m`, `0s`."""
    left, words = max(0, round(age.total_seconds())), []
    for unit, length in _UNITS:
        count, left = divmod(left, length)
        words.append(f"{count}{unit}" if count else "")
    first = next((place for place, word in enumerate(words) if word), None)
    return "0s" if first is None else "".join(words[first : first + 2])


Noun = tuple[str, str]
"""What is counted: one of it, and many."""


def at_most(
    name: str, found: WaivedFindings[T], limit: int, *, what: Noun, hint: str = "", note: str = ""
) -> Check:
    """The check that at most `limit` are kept; WAIVED where only waivers make it so."""
    count = len(found.kept)
    measured, reason = str(count), f"{counted(count, *what)}{note}"
    outcome = Outcome.PASS
    if count > limit:
        outcome, reason = Outcome.FAIL, f"{reason}, {_most(limit)}"
    elif count + len(found.waived) > limit:
        outcome = Outcome.WAIVED
    if found.waived:
        reason += f"; {len(found.waived)} waived"
    details = [str(one) for one in found.kept]
    details += [f"waived: {item}: {why}" for item, why in found.waived]
    places = tuple(map(_place, found.kept)) if outcome is Outcome.FAIL else ()
    hint = hint if outcome is Outcome.FAIL else ""
    return Check(name, outcome, reason, measured, f"<= {limit}", hint, tuple(details), places)


def bound(
    name: str, value: Number, limit: Number, *, what: str, hint: str = "", least: bool = False
) -> Check:
    """The check that a number is not above `limit`, or with `least` not below it."""
    good = value >= limit if least else value <= limit
    word = "at least" if least else "at most"
    reason = what if good else f"{what}, allowed are {word} {limit}"
    outcome = Outcome.PASS if good else Outcome.FAIL
    sign = ">=" if least else "<="
    return Check(name, outcome, reason, str(value), f"{sign} {limit}", "" if good else hint)


def skipped(name: str, reason: str) -> Check:
    return Check(name, Outcome.SKIPPED, reason)


def undecided(name: str, reason: str, hint: str = "") -> Check:
    return Check(name, Outcome.INCOMPLETE, reason, hint=hint)


def listed(names: Iterable[str], most: int = 3) -> str:
    """The first names of many, for a message."""
    names = [*names]
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _most(limit: int) -> str:
    if limit <= 1:
        return "one is allowed" if limit else "none is allowed"
    return f"{limit:,} are allowed"


def _place(item: Finding | Vulnerability) -> Location:
    line = item.line if isinstance(item, Finding) else 0
    return Location(item.path, line, str(item) if isinstance(item, Vulnerability) else item.message)
