"""Checks of counts against limits, and how amounts are shown."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

from shipline.gates.reports import Finding, Vulnerability
from shipline.gates.verdict import Check, Location, Number, Outcome
from shipline.gates.waivers import T, WaivedFindings
from shipline.units import counted

_UNITS = (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1))  # seconds
_LISTED = 3  # names in a message


def shown_age(age: timedelta) -> str:
    """The two largest units: `3d4h`, `12m`, `0s`."""
    seconds, parts = max(0, round(age.total_seconds())), []
    for unit, length in _UNITS:
        count, seconds = divmod(seconds, length)
        parts.append(f"{count}{unit}" if count else "")
    first = next((position for position, part in enumerate(parts) if part), None)
    return "0s" if first is None else "".join(parts[first : first + 2])


Noun = tuple[str, str]
"""What is counted: singular and plural."""


def at_most(
    name: str,
    findings: WaivedFindings[T],
    limit: int,
    *,
    noun: Noun,
    hint: str = "",
    note: str = "",
) -> Check:
    """The check that at most `limit` findings count; WAIVED if only waivers make it pass."""
    count = len(findings.kept)
    measured, reason = str(count), f"{counted(count, *noun)}{note}"
    outcome = Outcome.PASS
    if count > limit:
        outcome, reason = Outcome.FAIL, f"{reason}, {_allowed(limit)}"
    elif count + len(findings.waived) > limit:
        outcome = Outcome.WAIVED
    if findings.waived:
        reason += f"; {len(findings.waived)} waived"
    details = [str(finding) for finding in findings.kept]
    details += [f"waived: {item}: {why}" for item, why in findings.waived]
    locations = tuple(map(_location, findings.kept)) if outcome is Outcome.FAIL else ()
    hint = hint if outcome is Outcome.FAIL else ""
    return Check(name, outcome, reason, measured, f"<= {limit}", hint, tuple(details), locations)


def bound(name: str, value: Number, limit: Number, *, reason: str, hint: str = "") -> Check:
    """The check that `value` is not above `limit`."""
    if value <= limit:
        return Check(name, Outcome.PASS, reason, str(value), f"<= {limit}")
    reason = f"{reason}; at most {limit} allowed"
    return Check(name, Outcome.FAIL, reason, str(value), f"<= {limit}", hint)


def skipped(name: str, reason: str) -> Check:
    """A check that does not apply."""
    return Check(name, Outcome.SKIPPED, reason)


def undecided(name: str, reason: str, hint: str = "") -> Check:
    """A check that the reports cannot decide."""
    return Check(name, Outcome.INCOMPLETE, reason, hint=hint)


def listed(names: Iterable[str]) -> str:
    """The first names of a list, for a message."""
    names = [*names]
    more = len(names) - _LISTED
    return ", ".join(names[:_LISTED]) + (f" and {more} more" if more > 0 else "")


def _allowed(limit: int) -> str:
    if limit <= 1:
        return "one is allowed" if limit else "none is allowed"
    return f"{limit:,} are allowed"


def _location(item: Finding | Vulnerability) -> Location:
    line = item.line if isinstance(item, Finding) else 0
    return Location(item.path, line, str(item) if isinstance(item, Vulnerability) else item.message)
