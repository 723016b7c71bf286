"""Structured threads: nothing outlives its block, and every wait can be interrupted."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from shipline.errors import Cancelled, SandboxError, ShiplineError
from shipline.tasks import (
    CancelScope,
    Limiter,
    Once,
    Task,
    TaskGroup,
    check,
    directory_lock,
    on_cancel,
    ordered_map,
    repeat,
    run_all,
    scope,
    sleep,
    time_limit,
    visit_graph,
)


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
    assert time.monotonic() - start < 30
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


def test_a_failure_wins_over_a_cancellation_that_comes_before_it_is_raised() -> None:
    once: Once[None] = Once()

    def give_up_and_fail() -> None:
        scope().cancel()  # as when a sibling gives up because of what is about to be raised here
        fail()

    with pytest.raises(ValueError, match="first"), TaskGroup() as group:
        group.start(once.get, "key", give_up_and_fail)


def test_what_is_there_is_given_to_those_who_are_interrupted_too() -> None:
    failed: Task[None] = Task()
    failed.settle(ValueError("first"))
    with pytest.raises(ValueError, match="first"), TaskGroup() as group:
        group.scope.cancel()
        failed.result()


def test_an_interrupted_caller_does_not_interrupt_others_that_want_the_same() -> None:
    once: Once[int] = Once()
    begun = threading.Event()

    def interrupted() -> int:
        begun.set()
        wait_long()
        return 1

    with TaskGroup() as others:
        with pytest.raises(Cancelled), TaskGroup() as group:
            group.start(once.get, "key", interrupted)
            assert begun.wait(60)
            waiting = others.start(once.get, "key", lambda: 2)
            group.scope.cancel()
        assert waiting.result() == 2
    assert once.get("key", lambda: 3) == 2


def test_limiter_bounds_what_runs_at_once() -> None:
    limiter = Limiter(2)
    lock, both = threading.Lock(), threading.Barrier(2, timeout=60)
    now = most = 0

    def work() -> None:
        nonlocal now, most
        with limiter:
            with lock:
                now += 1
                most = max(most, now)
            both.wait()
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
    results.close()
    assert threading.active_count() == before
    check()


def test_ordered_map_raises_where_the_result_is_taken() -> None:
    def work(number: int) -> float:
        return 1 / (number - 3)

    results = ordered_map(work, range(10), workers=2)
    assert [next(results) for _ in range(3)]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_all_run_at_once_the_last_one_here() -> None:
    meeting = threading.Barrier(3, timeout=60)

    def meet(number: int) -> tuple[int, int]:
        meeting.wait()
        return number, threading.get_ident()

    found = run_all(meet, [1, 2, 3])
    assert [number for number, _ in found] == [1, 2, 3]
    assert len({thread for _, thread in found}) == 3
    assert found[-1][1] == threading.get_ident()
    assert run_all(meet, []) == []


def test_the_first_failure_of_all_ends_what_runs_here() -> None:
    def work(number: int) -> None:
        if number == 1:
            raise ValueError("first")
        sleep(60)

    with pytest.raises(ValueError, match="first"):
        run_all(work, [1, 2])


def test_cancelled_is_no_exception_that_work_could_catch() -> None:
    assert not issubclass(Cancelled, Exception)


def test_every_callback_runs_although_one_fails() -> None:
    scope = CancelScope()
    calls: list[str] = []
    with (
        scope.on_cancel(lambda: calls.append("first")),
        scope.on_cancel(fail),
        scope.on_cancel(lambda: calls.append("last")),
        pytest.raises(ValueError, match="first"),
    ):
        scope.cancel()
    assert calls == ["first", "last"]


def test_a_failing_callback_does_not_hide_what_happened() -> None:
    begun = threading.Event()

    def wait() -> None:
        with on_cancel(lambda: 1 / 0):
            begun.set()
            sleep(60)

    with pytest.raises(ValueError, match="first"), TaskGroup() as group:
        group.start(wait)
        begun.wait()
        fail()


def test_a_callback_never_runs_after_its_block() -> None:
    scope = CancelScope()
    inside, may_end = threading.Event(), threading.Event()
    order: list[str] = []

    def callback() -> None:
        inside.set()
        may_end.wait()
        order.append("callback")

    def block() -> None:
        with scope.on_cancel(callback):
            inside.wait()
        order.append("after")

    with TaskGroup() as group:
        task = group.start(block)
        group.start(scope.cancel)
        inside.wait()
        may_end.set()
        task.result()
    assert order == ["callback", "after"]


def test_a_limited_group_works_with_few_threads() -> None:
    names: set[int] = set()

    def work(number: int) -> int:
        names.add(threading.get_ident())
        time.sleep(0.001)
        return number

    with TaskGroup(at_once=3) as group:
        tasks = [group.start(work, number) for number in range(200)]
    assert [task.result() for task in tasks] == list(range(200))
    assert len(names) <= 3


def no_threads(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """From now on the kernel gives `after` threads."""
    left = [after]
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)


def test_a_thread_that_cannot_start_is_the_cause_that_is_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    no_threads(monkeypatch, 1)
    with pytest.raises(SandboxError, match="can't start new thread"), TaskGroup() as group:
        group.start(wait_long)
        group.start(wait_long)


def test_a_limited_group_goes_on_with_the_threads_that_it_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    no_threads(monkeypatch, 1)
    started = threading.Event()
    with TaskGroup(at_once=8) as group:
        group.start(started.wait)
        tasks = [group.start(pow, 2, number) for number in range(20)]
        started.set()
    assert [task.result() for task in tasks] == [2**number for number in range(20)]


def test_a_graph_is_visited_inputs_first_and_each_once() -> None:
    inputs = {
        number: [one for one in range(number) if number % (one + 2) == 0] for number in range(60)
    }
    seen: list[int] = []

    def work(number: int) -> None:
        assert all(one in seen for one in inputs[number])
        seen.append(number)

    visit_graph(range(60), inputs.__getitem__, work, at_once=4)
    assert sorted(seen) == list(range(60))


def test_a_wide_graph_needs_no_thread_per_node() -> None:
    before, most = threading.active_count(), 0

    def work(number: int) -> None:
        nonlocal most
        most = max(most, threading.active_count())

    visit_graph([0], lambda number: range(1, 5000) if not number else (), work, at_once=4)
    assert most <= before + 4


def test_a_deep_graph_needs_no_deep_stack() -> None:
    seen: list[int] = []
    visit_graph([5000], lambda number: [number - 1] if number else [], seen.append, at_once=2)
    assert seen == list(range(5001))


def test_what_is_ready_one_by_one_needs_one_thread() -> None:
    threads: set[int] = set()
    visit_graph(
        [20],
        lambda number: [number - 1] if number else [],
        lambda number: threads.add(threading.get_ident()),
        at_once=8,
    )
    assert len(threads) == 1


def test_all_that_is_ready_runs_at_once() -> None:
    barrier = threading.Barrier(4)
    visit_graph([1, 2, 3, 4], lambda number: (), lambda number: barrier.wait(60), at_once=4)


def test_a_failing_node_ends_the_visit() -> None:
    def work(number: int) -> None:
        if number == 30:
            fail()
        if number < 30:
            raise AssertionError(number)

    with pytest.raises(ValueError, match="first"):
        visit_graph([0], lambda number: [number + 1] if number < 30 else [], work, at_once=2)


def test_a_task_can_be_settled_by_hand() -> None:
    task: Task[int] = Task()
    with TaskGroup() as group:
        waiting = group.start(task.result)
        task.settle((3,))
    assert waiting.result() == 3


def test_waiting_for_the_lock_of_a_directory_can_be_interrupted(tmp_path: Path) -> None:
    with directory_lock(tmp_path), pytest.raises(TimeoutError), time_limit(0.1):
        directory_lock(tmp_path).__enter__()


def test_a_time_limit_ends_what_is_waited_for() -> None:
    with pytest.raises(TimeoutError, match=r"within 0\.01 seconds"), time_limit(0.01):
        wait_long()
    with time_limit(60):
        sleep(0)
    sleep(0)


def test_an_interruption_is_no_timeout() -> None:
    with pytest.raises(ValueError, match="first"), TaskGroup() as group, time_limit(60):
        group.start(fail)
        wait_long()


def test_what_failed_beside_the_first_failure_is_kept_once() -> None:
    together = threading.Barrier(3)

    def fail(platform: str) -> None:
        error = ShiplineError("no such file")
        error.platform = platform
        together.wait()
        raise error

    with pytest.raises(ShiplineError) as raised, TaskGroup() as group:
        for platform in ("linux/amd64", "linux/arm64", "linux/arm64"):
            group.start(fail, platform)
    error = raised.value
    assert {one.platform for one in (error, *error.others)} == {"linux/amd64", "linux/arm64"}
    assert len(error.others) == 1


def test_a_failure_that_passes_through_nested_groups_is_no_other() -> None:
    def inner() -> None:
        with TaskGroup() as group:
            group.start(fail)

    def fail() -> None:
        raise ShiplineError("once")

    with pytest.raises(ShiplineError) as raised, TaskGroup() as group:
        tasks = [group.start(inner)]
        tasks.append(group.start(tasks[0].result))
    assert raised.value.others == ()


def test_work_is_repeated_until_the_scope_is_cancelled() -> None:
    calls: list[int] = []

    with TaskGroup() as group:

        def work() -> None:
            calls.append(1)
            if len(calls) == 3:
                group.scope.cancel()

        group.start(repeat, 0.001, work)
    assert len(calls) == 3
