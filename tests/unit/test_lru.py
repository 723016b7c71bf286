"""Lru: at most so many values, each for a time, and those that are used stay."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from shipline.lru import Lru


@given(st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=60), st.integers(1, 5))
def test_the_least_recently_used_make_room(steps: list[tuple[int, bool]], capacity: int) -> None:
    lru: Lru[int, int] = Lru(capacity)
    order: list[int] = []
    for key, write in steps:
        if write:
            lru.put(key, key)
        assert lru.get(key) == (key if write or key in order else None)
        if write or key in order:
            order = [*(one for one in order if one != key), key][-capacity:]
    assert [key for key, _ in lru.items()] == order


def test_a_value_ends_with_its_time_or_that_of_the_cache() -> None:
    now = [0.0]
    lru: Lru[str, int] = Lru(ttl_s=30, clock=lambda: now[0])
    lru.put("short", 1, ttl_s=10)
    lru.put("long", 2, ttl_s=1000)
    now[0] = 10
    assert lru.get("short") is None and lru.get("long") == 2
    now[0] = 30
    assert lru.get("long") is None and not lru.items()


def test_costs_are_added_up_and_given_back() -> None:
    lru: Lru[str, bytes] = Lru(10, cost=len)
    for value in (b"12345678", b"123", b"1234567"):
        lru.put("same", value)
    lru.put("other", b"123")
    assert dict(lru.items()) == {"same": b"1234567", "other": b"123"}
    lru.put("huge", b"x" * 11)
    assert not lru.items()
    lru.put("fits", b"x" * 10)
    lru.drop("fits")
    lru.drop("fits")
    lru.put("again", b"x" * 10)
    assert lru.get("again") is not None
