"""Who may change a data directory at the same time as whom.

Those who add share it: pushes run side by side. Those who remove have it alone, for moments. Adders
of the same thing (one tag, one digest) take turns: they hold its stripe.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable, Iterable, Iterator
from contextlib import ExitStack, contextmanager


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


class Stripes:
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
