"""Ranges and the manifest cache: the parts of the node that need no network."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shipline.oci import Digest
from shipline.server.cache import ReadCache, StoredManifest
from shipline.server.http import NotSatisfiable, byte_range, not_modified, precondition_holds

_NUMBERS = st.integers(0, 3000)


@given(first=_NUMBERS, last=_NUMBERS, size=_NUMBERS)
def test_range_is_what_a_slice_is(first: int, last: int, size: int) -> None:
    content = range(size)
    try:
        found = byte_range(f"bytes={first}-{last}", size)
    except NotSatisfiable:
        assert not content[first:] or last < first
        return
    assert (found is None) is (size == 0)
    if found is None:
        return
    assert content[found[0] : found[1] + 1] == content[first : last + 1]


@given(length=_NUMBERS, size=_NUMBERS)
def test_suffix_range_is_what_a_slice_is(length: int, size: int) -> None:
    try:
        found = byte_range(f"bytes=-{length}", size)
    except NotSatisfiable:
        assert length == 0 < size
        return
    assert (found is None) is (size == 0)
    if found is None:
        return
    assert range(size)[found[0] : found[1] + 1] == range(size)[-length:]


@pytest.mark.parametrize(
    "header", [None, "", "bytes=0-1,5-6", "bytes=" + "0-," * 1000, "items=0-5", "bytes=١-٢"]
)
def test_what_is_not_one_range_means_everything(header: str | None) -> None:
    assert byte_range(header, 100) is None


def test_huge_numbers_are_numbers() -> None:
    assert byte_range(f"bytes=0-{'9' * 80}", 100) == (0, 99)
    with pytest.raises(NotSatisfiable):
        byte_range(f"bytes={'9' * 80}-", 100)


@pytest.mark.parametrize(
    ("header", "same"),
    [
        (None, False),
        ('"a"', True),
        ('W/"a"', True),
        ("a", True),
        ('"b", "a"', True),
        ("*", True),
        ('"b"', False),
    ],
)
def test_if_none_match(header: str | None, same: bool) -> None:
    assert not_modified(header, '"a"') is same


@pytest.mark.parametrize(
    ("if_match", "if_none_match", "etag", "may"),
    [
        (None, None, "", True),
        (None, None, '"a"', True),
        ('"a"', None, '"a"', True),
        ('"b", "a"', None, '"a"', True),
        ('W/"a"', None, '"a"', False),
        ('"b"', None, '"a"', False),
        ("*", None, '"a"', True),
        ("*", None, "", False),
        ('"a"', None, "", False),
        (None, "*", "", True),
        (None, "*", '"a"', False),
        (None, '"a"', '"a"', False),
        (None, '"b"', '"a"', True),
        ('"a"', "*", '"a"', False),
    ],
)
def test_conditions_on_a_change(
    if_match: str | None, if_none_match: str | None, etag: str, may: bool
) -> None:
    assert precondition_holds(if_match, if_none_match, etag) is may


def stored(raw: bytes) -> StoredManifest:
    return StoredManifest(Digest.of(raw), "application/json", raw)


def test_cache_loads_once() -> None:
    cache = ReadCache()
    assert cache.get("repo", "v1", lambda: stored(b"one")) == stored(b"one")
    assert cache.get("repo", "v1", lambda: None) == stored(b"one")


def test_cache_forgets_what_was_written() -> None:
    cache = ReadCache()
    cache.get("repo", "v1", lambda: stored(b"one"))
    cache.forget([("tag", "repo", "v1")])
    assert cache.get("repo", "v1", lambda: stored(b"two")) == stored(b"two")


def test_cache_does_not_keep_what_was_read_while_something_was_written() -> None:
    cache = ReadCache()

    def overtaken() -> StoredManifest:
        cache.forget([("tag", "repo", "v1")])
        return stored(b"old")

    assert cache.get("repo", "v1", overtaken) == stored(b"old")
    assert cache.get("repo", "v1", lambda: stored(b"new")) == stored(b"new")


def test_cache_stays_within_its_budget() -> None:
    cache = ReadCache(budget=100_000)
    for number in range(1000):
        cache.get("repo", str(number), lambda: stored(b"x" * 1000))
    assert cache._size <= 100_000
    assert 0 < len(cache._entries) < 100


def test_cache_does_not_remember_absence() -> None:
    cache = ReadCache()
    assert cache.get("repo", "v1", lambda: None) is None
    assert cache.get("repo", "v1", lambda: stored(b"now")) is not None
