"""When an environment takes changes: windows in the week, and freezes, in the time of a zone."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from typing import Self
from zoneinfo import ZoneInfo

from msgspec import Struct

from shipline.errors import ConfigError
from shipline.units import shown_time
from shipline.values import doc

_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_DAY = timedelta(days=1)
_CLOCK = re.compile(r"([01]?[0-9]|2[0-4]):([0-5][0-9])\Z")
_STEPS = 10_000  # windows and freezes in turn before the search for an opening ends


class Weekdays(Struct, frozen=True):
    """Days of the week; Monday is 0."""

    days: frozenset[int]

    @classmethod
    def parse(cls, text: str) -> Self:
        """`mon` or `mon-fri`; `sat-mon` goes over the end of the week. Raises ValueError."""
        first, dash, last = text.strip().lower().partition("-")
        if first not in _DAYS or (dash and last not in _DAYS):
            raise ValueError(f"{text!r} is not a day: write mon, or mon-fri")
        start = _DAYS.index(first)
        length = (_DAYS.index(last) - start) % 7 if dash else 0
        return cls(frozenset((start + number) % 7 for number in range(length + 1)))

    def __str__(self) -> str:
        first = next((day for day in sorted(self.days) if (day - 1) % 7 not in self.days), 0)
        last = _DAYS[(first + len(self.days) - 1) % 7]
        return _DAYS[first] if len(self.days) == 1 else f"{_DAYS[first]}-{last}"


class TimeOfDay(Struct, frozen=True, order=True):
    """Minutes since midnight, up to 24:00."""

    minutes: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """`09:00`. Raises ValueError."""
        match = _CLOCK.match(text.strip())
        minutes = int(match[1]) * 60 + int(match[2]) if match else 0
        if match is None or minutes > 24 * 60:
            raise ValueError(f"{text!r} is not a time of day: write 09:00")
        return cls(minutes)

    def on(self, day: date, zone: ZoneInfo) -> datetime:
        """The moment on a day, in UTC."""
        days, minutes = divmod(self.minutes, 24 * 60)
        clock = time(*divmod(minutes, 60))
        return datetime.combine(day + days * _DAY, clock, zone).astimezone(UTC)

    def __str__(self) -> str:
        hours, minutes = divmod(self.minutes, 60)
        return f"{hours:02}:{minutes:02}"


class LocalTime(Struct, frozen=True, order=True):
    """A day, or a minute of one, without a zone."""

    day: date
    clock: TimeOfDay | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """`2026-12-20`, or `2026-12-20 18:00`. Raises ValueError."""
        day, _, clock = text.strip().replace("T", " ").partition(" ")
        try:
            return cls(date.fromisoformat(day), TimeOfDay.parse(clock) if clock else None)
        except ValueError:
            raise ValueError(
                f"{text[:40]!r} is not a time: write 2026-12-20, or 2026-12-20 18:00"
            ) from None

    def begins(self, zone: ZoneInfo) -> datetime:
        return (self.clock or TimeOfDay(0)).on(self.day, zone)

    def ends(self, zone: ZoneInfo) -> datetime:
        """The moment itself, for a day its end."""
        return (self.clock or TimeOfDay(24 * 60)).on(self.day, zone)

    def __str__(self) -> str:
        return f"{self.day}T{self.clock}" if self.clock else str(self.day)


class Zone(Struct, frozen=True):
    """A time zone of the IANA database."""

    name: str = "UTC"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises ValueError for a zone that this machine does not know."""
        try:
            ZoneInfo(text)
        except (KeyError, OSError, ValueError):
            raise ValueError(
                f"{text!r} is not a time zone: write Europe/Berlin, or install tzdata"
            ) from None
        return cls(text)

    @property
    def info(self) -> ZoneInfo:
        return ZoneInfo(self.name)

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Hours in which promotions are made."""

    days: tuple[Weekdays, ...] = field(
        default=(Weekdays(frozenset(range(7))),),
        metadata=doc("The days on which it begins: `mon`, `mon-fri`; by default all."),
    )
    from_: TimeOfDay = field(default=TimeOfDay(0), metadata=doc("When it begins, such as 09:00."))
    to: TimeOfDay = field(
        default=TimeOfDay(24 * 60), metadata=doc("When it ends; before `from`, on the next day.")
    )
    zone: Zone = field(default=Zone(), metadata=doc("The time zone, such as Europe/Berlin."))

    def __post_init__(self) -> None:
        if not self.days:
            raise ConfigError("days: at least one day must be named")
        if self.from_ == self.to:
            raise ConfigError("to: the window ends when it begins")

    def openings(self, since: datetime) -> Iterator[tuple[datetime, datetime]]:
        """Beginnings and ends in order of time, from the one in which `since` may lie."""
        zone = self.zone.info
        days = frozenset[int]().union(*(part.days for part in self.days))
        first = since.astimezone(zone).date() - _DAY
        for number in range(10):
            day = first + number * _DAY
            if day.weekday() in days:
                end = day + _DAY if self.to < self.from_ else day
                yield self.from_.on(day, zone), self.to.on(end, zone)

    def __str__(self) -> str:
        days = ", ".join(map(str, self.days))
        return f"{days} {self.from_}-{self.to} {self.zone}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Freeze:
    """A time in which nothing is promoted."""

    from_: LocalTime = field(metadata=doc("The first day, or 2026-12-20 18:00."))
    to: LocalTime = field(metadata=doc("The last day, or the minute at which it ends."))
    reason: str = field(default="", metadata=doc("Why, for messages."))
    zone: Zone = field(default=Zone(), metadata=doc("The time zone, such as Europe/Berlin."))

    def __post_init__(self) -> None:
        if self.begins >= self.ends:
            raise ConfigError("to: the freeze ends before it begins")

    @property
    def begins(self) -> datetime:
        return self.from_.begins(self.zone.info)

    @property
    def ends(self) -> datetime:
        return self.to.ends(self.zone.info)


def frozen_by(freezes: Sequence[Freeze], now: datetime) -> Freeze | None:
    """The freeze that `now` lies in; of several, that which ends last."""
    found = [freeze for freeze in freezes if freeze.begins <= now < freeze.ends]
    return max(found, key=lambda freeze: freeze.ends, default=None)


def is_open(windows: Sequence[Window], now: datetime) -> bool:
    """Whether `now` lies in one of the windows, or there are none."""
    spans = (span for window in windows for span in window.openings(now))
    return not windows or any(start <= now < end for start, end in spans)


def closed(
    windows: Sequence[Window], freezes: Sequence[Freeze], now: datetime
) -> tuple[str, str] | None:
    """The rule that allows no changes at `now`, freeze or window, and what it says; None if they
    are allowed.
    """
    if freeze := frozen_by(freezes, now):
        why = f" ({freeze.reason})" if freeze.reason else ""
        return "freeze", f"until {shown_time(freeze.ends)}{why}"
    if not is_open(windows, now):
        return "window", f"promotions are made {'; '.join(map(str, windows))}"
    return None


def next_opening(
    windows: Sequence[Window], freezes: Sequence[Freeze], now: datetime
) -> datetime | None:
    """The first moment from `now` on that lies in a window and in no freeze, in UTC; None if none
    was found.
    """
    for _ in range(_STEPS):
        if freeze := frozen_by(freezes, now):
            now = freeze.ends
        elif is_open(windows, now):
            return now
        else:
            starts = [start for window in windows for start, _ in window.openings(now)]
            now = min((start for start in starts if start > now), default=now)
    return None
