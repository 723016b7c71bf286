"""Group commit: fewer syncs than writes, and each writer gets its own result."""

from __future__ import annotations

import errno
import signal
import threading
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shipline.metadata.group import GroupCommit, PendingWrite, merged

_KEYS = st.sampled_from([b"a", b"b", b"c"])
_VALUES = st.none() | st.integers(0, 9).map(lambda number: b"%d" % number)


class Slow:
    """A store whose first write waits until it is let go."""

    def __init__(self, fails_on: bytes = b"") -> None:
        self.go, self.begun = threading.Event(), threading.Event()
        self.groups: list[list[bytes]] = []
        self._fails_on = fails_on

    def apply(
        self, changes: Mapping[bytes, bytes | None], add: Mapping[bytes, int], durable: bool
    ) -> None:
        self.begun.set()
        self.go.wait(60)
        if self._fails_on in changes:
            raise OSError(errno.ENOSPC, "full")
        self.groups.append(list(changes))


def run(slow: Slow, keys: list[bytes]) -> dict[bytes, BaseException]:
    """The first key alone, then all others at once; what each writer was told."""
    group = GroupCommit(slow.apply)
    failures: dict[bytes, BaseException] = {}

    def write(key: bytes) -> None:
        try:
            group.write({(key.decode(),): b""})
        except OSError as failure:
            failures[key] = failure

    threads = [threading.Thread(target=write, args=(key,)) for key in keys]
    threads[0].start()
    slow.begun.wait(60)
    for thread in threads[1:]:
        thread.start()
    while len(group._waiting) < len(keys) - 1:
        pass
    slow.go.set()
    for thread in threads:
        thread.join(60)
    return failures


def test_writers_that_wait_share_one_commit() -> None:
    slow = Slow()
    keys = [b"%d" % number for number in range(16)]
    assert run(slow, keys) == {}
    assert [sorted(group) for group in slow.groups] == [keys[:1], sorted(keys[1:])]


def test_a_group_is_committed_once_it_is_as_large_as_the_last_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("shipline.metadata.group._GATHER_S", 60)
    slow = Slow()
    slow.go.set()
    group = GroupCommit(slow.apply)
    group._last = 4
    threads = [
        threading.Thread(target=group.write, args=({(key,): b""},), daemon=True) for key in "abcd"
    ]
    for thread in threads[:3]:
        thread.start()
    threads[0].join(0.1)
    assert not slow.groups
    threads[3].start()
    for thread in threads:
        thread.join(20)
    assert [sorted(one) for one in slow.groups] == [[b"a", b"b", b"c", b"d"]]


def test_one_that_does_not_fit_fails_alone() -> None:
    slow = Slow(fails_on=b"big")
    assert list(run(slow, [b"a", b"b", b"big", b"c"])) == [b"big"]
    assert sorted(key for group in slow.groups for key in group) == [b"a", b"b", b"c"]


def test_a_failing_disk_fails_every_writer() -> None:
    def apply(*_: object) -> None:
        raise OSError(errno.EIO, "broken")

    group = GroupCommit(apply)
    for _ in range(2):
        with pytest.raises(OSError, match="broken"):
            group.write({("a",): b""})


@given(st.lists(st.tuples(st.dictionaries(_KEYS, _VALUES), st.dictionaries(_KEYS, st.integers()))))
def test_a_group_is_its_writes_in_order(
    writes: list[tuple[dict[bytes, bytes | None], dict[bytes, int]]],
) -> None:
    def done(
        state: dict[bytes, int | None], changes: Mapping[bytes, bytes | None], add: dict[bytes, int]
    ) -> None:
        for key, value in changes.items():
            state[key] = None if value is None else int(value)
        for key, delta in add.items():
            state[key] = (state.get(key) or 0) + delta

    one_by_one: dict[bytes, int | None] = {}
    for changes, add in writes:
        done(one_by_one, changes, add)
    at_once: dict[bytes, int | None] = {}
    done(at_once, *merged(PendingWrite(changes, add, True) for changes, add in writes))
    assert at_once == one_by_one


class Interrupted(BaseException):
    pass


class _InterruptingLock:
    """Interrupts the thread that has just taken the waiting writes, once."""

    def __init__(self, commit: GroupCommit) -> None:
        self._commit, self._lock, self._armed = commit, threading.Lock(), True

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        interrupts = self._armed and not self._commit._waiting
        self._armed = self._armed and not interrupts
        self._lock.release()
        if interrupts:
            raise Interrupted


def test_a_leader_that_is_interrupted_with_its_group_ends_all_of_it() -> None:
    slow = Slow()
    group = GroupCommit(slow.apply)
    told: dict[str, str] = {}

    def write(key: str) -> None:
        try:
            group.write({(key,): b""})
            told[key] = "written"
        except Interrupted:
            told[key] = "interrupted"

    threads = [threading.Thread(target=write, args=(key,), daemon=True) for key in "abc"]
    threads[0].start()
    slow.begun.wait(60)
    for thread in threads[1:]:
        thread.start()
    while len(group._waiting) < 2:
        pass
    group._lock = _InterruptingLock(group)  # type: ignore[assignment]
    slow.go.set()
    for thread in threads:
        thread.join(20)
    assert told == {"a": "written", "b": "interrupted", "c": "interrupted"}
    write("last")
    assert told["last"] == "written" and slow.groups == [[b"a"], [b"last"]]


@pytest.mark.parametrize("before", [True, False])
def test_an_interrupted_writer_keeps_nobody_waiting(before: bool) -> None:
    """Signals reach the main thread alone; others queue before it or after."""
    slow = Slow()
    group = GroupCommit(slow.apply)

    def interrupt(*_: object) -> None:
        raise Interrupted

    def others() -> list[threading.Thread]:
        threads = [
            threading.Thread(target=group.write, args=({(key,): b""},), daemon=True)
            for key in "bcd"
        ]
        for thread in threads:
            thread.start()
        return threads

    first = threading.Thread(target=group.write, args=({("a",): b""},), daemon=True)
    first.start()
    slow.begun.wait(60)
    threads = others() if before else []
    handler = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(Interrupted):
            group.write({("main",): b""})
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
    threads = threads or others()
    slow.go.set()
    for thread in (first, *threads):
        thread.join(20)
        assert not thread.is_alive()
    group.write({("last",): b""})
    assert {b"a", b"b", b"c", b"d", b"last"} <= {key for one in slow.groups for key in one}
