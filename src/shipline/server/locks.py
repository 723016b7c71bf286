"""Locks of a data directory, and which content clients were recently promised.

Adding content takes the lock shared, removing it takes it exclusively and briefly. Writers of the
same tag or digest take turns on a striped lock.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import islice

_LIMIT = 200_000  # promises; about 20 MB


class RecentPromises:
    """Which content clients were told about, and when."""

    def __init__(self, clock: Callable[[], float], limit: int = _LIMIT) -> None:
        self._clock = clock
        self._limit = limit
        self._lock = threading.Lock()
        self._times: dict[int, float] = {}  # oldest first; a hash collision only protects more
        self._complete_since = clock()

    def add(self, name: str, digest: str) -> None:
        """Record that a client was told the repository has this content."""
        key = hash((name, digest))
        with self._lock:
            self._times.pop(key, None)
            self._times[key] = self._clock()
            if len(self._times) > self._limit:
                self._forget(self._limit // 2)

    def promised_since(self, name: str, digest: str, cutoff: float) -> bool:
        """Whether it was, or may have been, promised at `cutoff` or later."""
        if cutoff <= self._complete_since:
            return True
        return self._times.get(hash((name, digest)), cutoff - 1) >= cutoff

    def assume_none(self) -> None:
        """No promises were made before: the directory was not being served."""
        self._complete_since = float("-inf")

    def _forget(self, number: int) -> None:
        oldest = list(islice(self._times, number))
        self._complete_since = max(self._complete_since, self._times[oldest[-1]])
        for key in oldest:
            del self._times[key]


class SharedLock:
    """A readers-writer lock that prefers writers. Not reentrant."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._readers = 0
        self._writers_waiting = 0
        self._owner = 0  # the thread that holds it exclusively, 0 for none

    @property
    def hold(self) -> bool:
        """Whether it is held exclusively."""
        return self._owner != 0

    def wait_exclusive(self) -> None:
        """Wait until no other thread holds it exclusively; free if none does."""
        if self._owner not in (0, threading.get_ident()):
            with self.shared():
                pass

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Hold it with other readers inside the block."""
        with self._condition:
            while self._owner or self._writers_waiting:
                self._condition.wait()
            self._readers += 1
        try:
            yield
        finally:
            with self._condition:
                self._readers -= 1
                if not self._readers:
                    self._condition.notify_all()

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold it alone inside the block."""
        with self._condition:
            self._writers_waiting += 1
            try:
                while self._owner or self._readers:
                    self._condition.wait()
                self._owner = threading.get_ident()
            finally:
                self._writers_waiting -= 1
        try:
            yield
        finally:
            with self._condition:
                self._owner = 0
                self._condition.notify_all()


class StripedLocks:
    """Locks by key, from a fixed number of locks."""

    def __init__(self, number: int = 256) -> None:
        self._locks = tuple(threading.Lock() for _ in range(number))

    @contextmanager
    def hold(self, keys: Iterable[Hashable]) -> Iterator[None]:
        """Hold the locks of all keys, acquired in a global order to avoid deadlock."""
        with ExitStack() as stack:
            for number in sorted({hash(key) % len(self._locks) for key in keys}):
                stack.enter_context(self._locks[number])
            yield
