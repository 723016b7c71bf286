"""Values in memory, the least recently used of which make room for new ones."""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")
CAPACITY = 10_000  # entries
TTL_S = 1800.0


class Lru(Generic[K, V]):
    """At most `capacity` entries, or as many as have that `cost` together, each for `ttl_s` by
    `clock`. Safe to use from any thread.
    """

    def __init__(
        self,
        capacity: int = CAPACITY,
        ttl_s: float = TTL_S,
        *,
        cost: Callable[[V], int] = lambda value: 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._capacity, self._ttl_s = capacity, ttl_s
        self._cost, self._clock = cost, clock
        self._lock = threading.Lock()
        self._entries: OrderedDict[K, tuple[float, V]] = OrderedDict()
        self._size = 0

    def get(self, key: K) -> V | None:
        """The value of `key`; None if there is none."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                return None
            if self._clock() >= entry[0]:
                self._remove(key)
                return None
            self._entries.move_to_end(key)
            return entry[1]

    def put(self, key: K, value: V, ttl_s: float = math.inf) -> None:
        """Set the value of `key`, for `ttl_s` if that is shorter."""
        with self._lock:
            self._remove(key)
            self._entries[key] = self._clock() + min(ttl_s, self._ttl_s), value
            self._size += self._cost(value)
            while self._size > self._capacity:
                self._remove(next(iter(self._entries)))

    def drop(self, key: K) -> None:
        """Remove `key`, if it is there."""
        with self._lock:
            self._remove(key)

    def clear(self) -> None:
        """Remove all entries."""
        with self._lock:
            self._entries.clear()
            self._size = 0

    def items(self) -> list[tuple[K, V]]:
        """All entries, the least recently used first, some of which may have expired."""
        with self._lock:
            return [(key, value) for key, (_, value) in self._entries.items()]

    def _remove(self, key: K) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._size -= self._cost(entry[1])
