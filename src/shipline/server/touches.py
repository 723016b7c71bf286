"""What clients were lately told is here, so that a collector leaves it to them.

Kept in memory: what was touched before the process started, or is forgotten because there is too
much of it, counts as touched.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from itertools import islice

_LIMIT = 200_000  # touches; about 20 MB


class Touches:
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
