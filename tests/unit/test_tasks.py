"""Structured threads: nothing outlives its block, and every wait can be interrupted."""

from __future__ import annotations

import threading
import time

import pytest

from shipline.errors import Cancelled
from shipline.tasks import CancelScope, Limiter, Once, TaskGroup, check, ordered_map, sleep


def wait_long() -> None:
    sleep(60)


def fail() -> None:
    raise ValueError("first")


def test_results_come_back() -> None:
    with TaskGroup() as group:
        tasks = [group.start(pow, 2, n) for n in range(5)]
    assert [task.result() for task in tasks] == [1, 2, 4, 8, 16]


def test_first_failure_cancels_the_rest_and_is_raised() -> None:
    start = time.monotonic()
    with pytest.raises(ValueError, match="first"), TaskGroup() as group:
        for _ in range(3):
            group.start(wait_long)
        group.start(fail)
    assert time.monotonic() - start < 10
    assert not [one for one in threading.enumerate() if one.name == "wait_long"]


def test_a_failing_block_cancels_its_threads() -> None:
    with pytest.raises(ValueError, match="first"), TaskGroup() as group:
        group.start(wait_long)
        fail()


def test_outer_cancellation_reaches_inner_threads() -> None:
    def inner() -> None:
        with TaskGroup() as group:
            group.start(wait_long)

    with pytest.raises(ValueError, match="first"), TaskGroup() as group:
        group.start(inner)
        group.start(fail)


def test_waiting_for_a_result_can_be_interrupted() -> None:
    once: Once[None] = Once()

    def waiter() -> None:
        once.get("key", wait_long)

    with pytest.raises(ValueError, match="first"), TaskGroup() as group:
        group.start(waiter)
        group.start(waiter)
        group.start(fail)


def test_once_computes_once_for_all() -> None:
    once: Once[int] = Once()
    calls: list[int] = []

    def compute() -> int:
        calls.append(1)
        sleep(0.02)
        return 7

    with TaskGroup() as group:
        tasks = [group.start(once.get, "key", compute) for _ in range(8)]
    assert [task.result() for task in tasks] == [7] * 8
    assert len(calls) == 1


def test_limiter_bounds_what_runs_at_once() -> None:
    limiter = Limiter(2)
    lock = threading.Lock()
    now = most = 0

    def work() -> None:
        nonlocal now, most
        with limiter:
            with lock:
                now += 1
                most = max(most, now)
            sleep(0.01)
            with lock:
                now -= 1

    with TaskGroup() as group:
        for _ in range(8):
            group.start(work)
    assert most == 2


def test_callbacks_run_once_and_only_while_registered() -> None:
    scope = CancelScope()
    calls: list[str] = []
    with scope.on_cancel(lambda: calls.append("gone")):
        pass
    with scope.on_cancel(lambda: calls.append("called")):
        scope.cancel()
        scope.cancel()
    assert calls == ["called"]
    with pytest.raises(Cancelled):
        scope.check()


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_ordered_map_keeps_the_order(workers: int) -> None:
    def work(number: int) -> int:
        time.sleep(0.002 * (number % 3))
        return number

    assert list(ordered_map(work, range(30), workers=workers)) == list(range(30))


def test_ordered_map_ends_its_threads_when_it_is_left_early() -> None:
    before = threading.active_count()
    results = ordered_map(str, range(1000), workers=3)
    assert next(results) == "0"
    results.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before
    check()


def test_ordered_map_raises_where_the_result_is_taken() -> None:
    def work(number: int) -> float:
        return 1 / (number - 3)

    results = ordered_map(work, range(10), workers=2)
    assert [next(results) for _ in range(3)]
    with pytest.raises(ZeroDivisionError):
        next(results)
