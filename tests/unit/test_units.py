"""Quantities and patterns mean what people expect of them."""

from __future__ import annotations

import fnmatch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shipline.globs import glob
from shipline.units import ByteSize, Duration, as_unicode, go_size, parse_boolean, parse_go_size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("1h30m", 5400), ("14d", 14 * 86400), ("1w", 7 * 86400), ("250ms", 0.25)],
)
def test_a_time_span_is_the_sum_of_its_parts(text: str, seconds: float) -> None:
    assert Duration.parse(text).seconds == seconds


@pytest.mark.parametrize("text", ["", "5", "0s", "s", "-5s", "1m1h", "1.5h", "ten minutes"])
def test_what_is_no_time_span_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="write 90s"):
        Duration.parse(text)


@given(st.integers(1, 10**15))
def test_a_time_span_reads_what_it_writes(milliseconds: int) -> None:
    span = Duration(milliseconds)
    assert Duration.parse(str(span)) == span


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("0", 0),
        ("17", 17),
        ("17B", 17),
        ("500MB", 500_000_000),
        ("500 MB", 500_000_000),
        ("1k", 1000),
        ("1KiB", 1024),
        ("4GiB", 4 << 30),
        ("1.5G", 1_500_000_000),
        ("2TiB", 2 << 40),
        ("10gb", 10_000_000_000),
        ("10gib", 10 << 30),
    ],
)
def test_a_size_counts_in_thousands_or_1024s(text: str, number: int) -> None:
    assert ByteSize.parse(text).bytes == number


@pytest.mark.parametrize("text", ["", "B", "-1", "1PB", "1.2.3", "ten", "1 M B", "0x10", "1\u212a"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="write 500MB"):
        ByteSize.parse(text)


@given(st.integers(0, 10**15))
def test_a_size_reads_what_it_writes(number: int) -> None:
    size = ByteSize(number)
    assert ByteSize.parse(str(size)) == size


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("main", ["main"], ["main2", "xmain", "a/main"]),
        ("feature/*", ["feature/x"], ["feature/x/y", "feature", "feature/x\ny/z"]),
        ("feature/**", ["feature/x", "feature/x/y"], ["feature"]),
        ("**/app", ["app", "a/app", "a/b/app"], ["a/happ", "happ"]),
        ("a/**/b", ["a/b", "a/x/b", "a/x/y/b"], ["ab", "a/xb"]),
        ("a**/b", ["a/b", "ax/b", "a/x/b"], ["b"]),
        ("v[0-9]?", ["v1x", "v22"], ["v1", "vx1", "v1/"]),
        ("[!a]*", ["b", "bc"], ["a", "ab", "/b"]),
        ("a.b+c", ["a.b+c"], ["axb+c", "a.bbc"]),
        ("[ab", ["[ab"], ["a"]),
    ],
)
def test_a_pattern_matches_whole_names(pattern: str, yes: list[str], no: list[str]) -> None:
    assert [name for name in yes if not glob(pattern).fullmatch(name)] == []
    assert [name for name in no if glob(pattern).fullmatch(name)] == []


@given(st.text("ab*?", min_size=1), st.text("ab", max_size=8))
def test_without_slashes_a_pattern_is_that_of_a_shell(pattern: str, name: str) -> None:
    assert bool(glob(pattern).fullmatch(name)) == fnmatch.fnmatchcase(name, pattern)


def test_an_empty_pattern_and_an_impossible_set_are_refused() -> None:
    for pattern in ("", "[z-a]"):
        with pytest.raises(ValueError):
            glob(pattern)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("64m", 64 << 20),
        ("1.5 GiB", 3 << 29),
        ("3kB", 3072),
        ("7b", 7),
        ("64mi", None),
        ("64  m", None),
        ("64ib", None),
        ("m", None),
        ("", None),
        pytest.param("9" * 400, None, id="of 400 digits"),
    ],
)
def test_sizes_of_docker_are_those_of_go_units(text: str, size: int | None) -> None:
    assert parse_go_size(text) == size


def test_sizes_of_docker_have_four_digits() -> None:
    assert [go_size(size) for size in (0, 999, 4096, 12_345_678)] == [
        "0B",
        "999B",
        "4.096kB",
        "12.35MB",
    ]
    assert [go_size(size, 1024) for size in (1023, 64 << 20)] == ["1023B", "64MiB"]


def test_booleans_are_those_of_go() -> None:
    """strconv.ParseBool."""
    assert all(parse_boolean(text) is True for text in ("1", "t", "T", "true", "True", "TRUE"))
    assert all(parse_boolean(text) is False for text in ("0", "f", "F", "false", "False", "FALSE"))
    assert all(parse_boolean(text) is None for text in ("", "yes", "on", "tRUE", " true", "2"))


def test_bytes_that_were_not_utf_8_are_shown_as_unknown() -> None:
    assert as_unicode("plain") == "plain"
    assert as_unicode("Jos\u00e9 \U0001f600") == "Jos\u00e9 \U0001f600"
    assert as_unicode(b"Jos\xe9 \xff".decode(errors="surrogateescape")) == "Jos\ufffd \ufffd"
