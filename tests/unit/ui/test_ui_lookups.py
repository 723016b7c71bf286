"""What pages looked up elsewhere: for how long it is kept, and what is said if it fails."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from shipline.errors import NotFound
from shipline.tasks import sleep
from shipline.ui.lookups import Lookups


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_fact_is_kept_for_its_time_and_looked_up_again_after_it() -> None:
    clock, asked = Clock(), []
    lookups = Lookups(clock)

    def look() -> int:
        asked.append(clock.now)
        return len(asked)

    assert [lookups.get(("a",), look, kept_s=5).value for _ in range(3)] == [1, 1, 1]
    clock.now += 5
    assert lookups.get(("a",), look, kept_s=5).value == 2
    lookups.forget("a")
    assert lookups.get(("a",), look, kept_s=5).value == 3


def test_a_failure_leaves_what_was_known_with_its_age() -> None:
    clock = Clock()
    lookups = Lookups(clock)

    def fail() -> int:
        raise NotFound("it is gone", hint="look there")

    nothing = lookups.get(("a",), fail, kept_s=0)
    assert nothing.value is None and nothing.problem == "it is gone"
    assert lookups.get(("a",), lambda: 7, kept_s=0) is nothing  # not asked at once again
    clock.now += 15
    assert lookups.get(("a",), lambda: 7, kept_s=0).problem == ""
    clock.now += 60
    stale = lookups.get(("a",), fail, kept_s=0)
    assert (stale.value, stale.at, stale.problem, stale.hint) == (
        *(7, 1015.0),
        *("it is gone", "look there"),
    )


def test_a_look_that_takes_too_long_is_ended() -> None:
    found = Lookups().get(("a",), lambda: sleep(60), kept_s=5, within_s=0.05)
    assert found.value is None and "no answer within 0.05 seconds" in found.problem


def test_two_who_ask_at_once_look_once() -> None:
    lookups, asked, begun = Lookups(), [], threading.Barrier(2)

    def look() -> int:
        asked.append(1)
        sleep(0.05)
        return 1

    def get() -> int | None:
        begun.wait()
        return lookups.get(("a",), look, kept_s=60).value

    with ThreadPoolExecutor(2) as pool:
        assert [one.result() for one in [pool.submit(get), pool.submit(get)]] == [1, 1]
    assert asked == [1]


def test_what_was_forgotten_while_it_was_looked_up_is_looked_up_again() -> None:
    lookups, asked = Lookups(), []

    def look() -> int:
        asked.append(1)
        lookups.forget("a")
        return len(asked)

    assert lookups.get(("a",), look, kept_s=60).value == 1
    assert lookups.get(("a",), look, kept_s=60).value == 2
