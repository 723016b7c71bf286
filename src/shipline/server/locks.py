"""Who may change a data directory at the same time as whom, and what clients were lately promised
is here.

Kept in memory: what was touched before the process started, or is forgotten because there is too
much of it, counts as touched.

Those who add share it: pushes run side by side. Those who remove have it alone, for moments. Adders
of the same thing (one tag, one digest) take turns: they hold its stripe.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import islice

_LIMIT = 200_000  # touches; about 20 MB


class RecentPromises:
    def __init__(self, clock: Callable[[], float], limit: int = _LIMIT) -> None:
        self._clock = clock
        self._limit = limit
        self._lock = threading.Lock()
        self._times: dict[int, float] = {}  # in order; two things of one hash protect each other
        self._known_since = clock()

    def add(self, name: str, digest: str) -> None:
        """A client was told that the repository has this."""
        key = hash((name, digest))
        with self._lock:
            self._times.pop(key, None)
            self._times[key] = self._clock()
            if len(self._times) > self._limit:
                self._forget(self._limit // 2)

    def since(self, name: str, digest: str, moment: float) -> bool:
        """Whether it was, or may have been, touched at `moment` or later."""
        if moment <= self._known_since:
            return True
        return self._times.get(hash((name, digest)), moment - 1) >= moment

    def trust(self) -> None:
        """Nobody was told anything: the directory was not served."""
        self._known_since = float("-inf")

    def _forget(self, number: int) -> None:
        oldest = list(islice(self._times, number))
        self._known_since = max(self._known_since, self._times[oldest[-1]])
        for key in oldest:
            del self._times[key]


class SharedLock:
    """Held by many, or by one alone; one who waits to be alone goes first. Not reentrant."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._sharing = 0
        self._waiting = 0
        self._alone = 0  # the thread that has it alone

    @property
    def held(self) -> bool:
        """Whether one has it alone."""
        return self._alone != 0

    def settle(self) -> None:
        """Wait until another thread that has it alone is done; costs nothing while none has."""
        if self._alone not in (0, threading.get_ident()):
            with self.shared():
                pass

    @contextmanager
    def shared(self) -> Iterator[None]:
        with self._condition:
            while self._alone or self._waiting:
                self._condition.wait()
            self._sharing += 1
        try:
            yield
        finally:
            with self._condition:
                self._sharing -= 1
                if not self._sharing:
                    self._condition.notify_all()

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        with self._condition:
            self._waiting += 1
            try:
                while self._alone or self._sharing:
                    self._condition.wait()
                self._alone = threading.get_ident()
            finally:
                self._waiting -= 1
        try:
            yield
        finally:
            with self._condition:
                self._alone = 0
                self._condition.notify_all()


class StripedLocks:
    """A lock for every key, made of a fixed number of locks."""

    def __init__(self, number: int = 256) -> None:
        self._locks = tuple(threading.Lock() for _ in range(number))

    @contextmanager
    def held(self, keys: Iterable[Hashable]) -> Iterator[None]:
        """Hold the locks of all keys, taken in one order by everyone."""
        with ExitStack() as stack:
            for number in sorted({hash(key) % len(self._locks) for key in keys}):
                stack.enter_context(self._locks[number])
            yield
