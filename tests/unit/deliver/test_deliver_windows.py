"""When an environment takes changes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shipline.deliver.windows import (
    Freeze,
    LocalTime,
    TimeOfDay,
    Weekdays,
    Window,
    Zone,
    frozen_by,
    is_open,
    next_opening,
)
from shipline.errors import ConfigError


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def window(days: str, start: str, end: str, zone: str = "UTC") -> Window:
    names = tuple(map(Weekdays.parse, days.split()))
    return Window(
        days=names, from_=TimeOfDay.parse(start), to=TimeOfDay.parse(end), zone=Zone.parse(zone)
    )


def freeze(start: str, end: str, zone: str = "UTC") -> Freeze:
    return Freeze(from_=LocalTime.parse(start), to=LocalTime.parse(end), zone=Zone.parse(zone))


BERLIN = window("mon-fri", "09:00", "16:00", "Europe/Berlin")
NIGHT = window("fri", "22:00", "04:00")


@pytest.mark.parametrize(
    ("one", "now", "opens"),
    [
        (BERLIN, "2026-11-30 08:00", "2026-11-30 08:00"),  # 09:00 in winter
        (BERLIN, "2026-11-30 07:59", "2026-11-30 08:00"),
        (BERLIN, "2026-11-30 15:00", "2026-12-01 08:00"),  # the end is not part of it
        (BERLIN, "2026-07-01 06:59", "2026-07-01 07:00"),  # 09:00 in summer
        (BERLIN, "2026-11-27 16:00", "2026-11-30 08:00"),  # over the weekend
        (NIGHT, "2026-11-28 03:59", "2026-11-28 03:59"),  # begun the day before
        (NIGHT, "2026-11-28 04:00", "2026-12-04 22:00"),
        (window("sat-mon", "00:00", "24:00"), "2026-11-29 23:59", "2026-11-29 23:59"),
        (window("sat-mon", "00:00", "24:00"), "2026-12-01 00:00", "2026-12-05 00:00"),
        # the hour that summer time skips, and the one that comes twice
        (window("sun", "02:30", "05:30", "Europe/Berlin"), "2026-03-28 12:00", "2026-03-29 01:30"),
        (window("sun", "02:30", "03:30", "Europe/Berlin"), "2026-10-24 12:00", "2026-10-25 00:30"),
    ],
)
def test_a_window_opens_in_the_time_of_its_zone(one: Window, now: str, opens: str) -> None:
    assert next_opening([one], [], at(now)) == at(opens)
    assert is_open([one], at(now)) == (now == opens)


def test_a_freeze_holds_through_its_last_day_and_the_next_window_follows() -> None:
    holidays = freeze("2026-12-20", "2027-01-02", "Europe/Berlin")
    assert frozen_by([holidays], at("2026-12-19 22:59")) is None
    assert frozen_by([holidays], at("2026-12-19 23:00")) is holidays
    assert frozen_by([holidays], at("2027-01-02 22:59")) is holidays
    assert frozen_by([holidays], at("2027-01-02 23:00")) is None
    assert next_opening([BERLIN], [holidays], at("2026-12-24 12:00")) == at("2027-01-04 08:00")
    minute = freeze("2026-11-30 12:00", "2026-11-30 13:30")
    assert next_opening([], [minute], at("2026-11-30 12:00")) == at("2026-11-30 13:30")


@given(
    st.datetimes(datetime(2024, 1, 1), datetime(2030, 1, 1), timezones=st.just(UTC)),
    st.lists(
        st.builds(
            window,
            st.sampled_from(["mon", "fri-sun", "tue thu", "mon-sun"]),
            st.sampled_from(["00:00", "02:30", "09:00", "23:59"]),
            st.sampled_from(["01:15", "16:00", "24:00"]),
            st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Pacific/Chatham"]),
        ),
        max_size=3,
    ),
    st.integers(0, 40),
)
def test_it_is_open_when_it_is_said_to_open_and_not_before(
    now: datetime, windows: list[Window], days: int
) -> None:
    until = (now + timedelta(days=days)).strftime("%Y-%m-%d")
    freezes = [freeze(now.strftime("%Y-%m-%d"), until)] if days else []

    def takes(moment: datetime) -> bool:
        return is_open(windows, moment) and frozen_by(freezes, moment) is None

    opens = next_opening(windows, freezes, now)
    assert opens is not None and opens >= now and takes(opens)
    waited = opens - now
    assert not any(takes(now + waited * part / 7) for part in range(7) if waited)


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        (Weekdays.parse, "monday"),
        (Weekdays.parse, "mon-"),
        (TimeOfDay.parse, "9"),
        (TimeOfDay.parse, "24:01"),
        (TimeOfDay.parse, "12:60"),
        (LocalTime.parse, "2026-13-01"),
        (LocalTime.parse, "2026-12-01 25:00"),
        (Zone.parse, "Mars/Base"),
        (Zone.parse, "../etc/passwd"),
        (Zone.parse, ""),
    ],
)
def test_what_is_no_time_is_refused(parse: type, text: str) -> None:
    with pytest.raises(ValueError, match="write"):
        parse(text)


@pytest.mark.parametrize("text", ["mon", "mon-fri", "sat-mon", "mon-sun"])
def test_days_are_written_as_they_were_read(text: str) -> None:
    assert str(Weekdays.parse(text)) == text


def test_a_time_that_ends_before_it_begins_is_refused() -> None:
    with pytest.raises(ConfigError):
        freeze("2026-12-20", "2026-12-19")
    with pytest.raises(ConfigError):
        window("mon", "09:00", "09:00")
