"""How pages write times, quantities and digests."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from shipline.pages import content

NOW = datetime(2026, 11, 26, 9, 20, tzinfo=UTC)


def plain(text: str) -> str:
    return text.replace(content.SPACE, " ")


@pytest.mark.parametrize(
    ("ago", "shown"),
    [
        (timedelta(), "now"),
        (timedelta(seconds=59), "59 s ago"),
        (timedelta(minutes=59, seconds=59), "59 min ago"),
        (timedelta(hours=47), "1 d ago"),
        (timedelta(days=412), "412 d ago"),
        (timedelta(days=-88), "in 88 d"),
    ],
)
def test_an_age_has_one_unit(ago: timedelta, shown: str) -> None:
    assert plain(content.age(NOW - ago, NOW)) == shown
    assert plain(content.age((NOW - ago).timestamp(), NOW.timestamp())) == shown


def test_moments_are_utc_and_have_the_year_only_if_it_is_another() -> None:
    there = datetime(2026, 11, 26, 9, 12, tzinfo=timezone(timedelta(hours=2)))
    assert content.absolute(there, NOW) == "26 Nov 07:12"
    assert content.absolute(there.replace(year=2025), NOW) == "26 Nov 2025"
    assert content.exact(there) == "2026-11-26T07:12:00Z"


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0 ms"),
        (0.2404, "240 ms"),
        (0.9999, "1.0 s"),
        (38.6, "38.6 s"),
        (59.97, "1 min"),
        (87, "1 min 27 s"),
        (3600, "1 h"),
        (90_061, "1 d 1 h"),
    ],
)
def test_durations(seconds: float, shown: str) -> None:
    assert plain(content.duration(seconds)) == shown


def test_a_span_has_two_neighbouring_units() -> None:
    assert plain(content.span(20 * 3600 + 20 * 60 + 5)) == "20 h 20 min"
    assert plain(content.span(20 * 3600 + 5)) == "20 h"


def test_digests_are_twelve_digits_and_name_only_uncommon_algorithms() -> None:
    assert content.short("sha256:" + "a" * 64) == "a" * 12
    assert content.short("sha512:" + "b" * 128) == "sha512:" + "b" * 12
    assert content.short("5c0d7e1f93ab41d0c8e2") == "5c0d7e1f93ab"


@pytest.mark.parametrize(
    ("seconds", "end"),
    [(0, 0.001), (0.3, 0.4), (14.7, 20), (38.6, 40), (40, 40), (41, 100), (3000, 4000)],
)
def test_the_quarters_of_an_axis_are_round(seconds: float, end: float) -> None:
    assert content.axis(seconds) == pytest.approx(end)
