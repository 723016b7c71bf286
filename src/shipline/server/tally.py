"""Requests by route, method and status with their latencies and bytes, under a single lock.

Every request passes here, so one dictionary entry holds all of it; what scrapes show is added up
from the entries.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator

from shipline.server.instruments import buckets, head, sample

_BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)
_SECONDS, _RECEIVED, _SENT, _COUNTS = 0, 1, 2, 3  # places in an entry
Key = tuple[str, str, int]


class Requests:
    """An instrument of four families. Safe to use from any thread."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._lock = threading.Lock()
        self._entries: dict[Key, list[float]] = {}

    def add(
        self, route: str, method: str, status: int, seconds: float, received: int, sent: int
    ) -> None:
        """One request was answered; bytes of the bodies."""
        key = (route, method, status)
        place = _COUNTS + bisect_left(_BOUNDS_S, seconds)
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                entry = self._entries[key] = [0] * (_COUNTS + len(_BOUNDS_S) + 1)
            entry[_SECONDS] += seconds
            entry[_RECEIVED] += received
            entry[_SENT] += sent
            entry[place] += 1

    def lines(self) -> Iterator[str]:
        with self._lock:
            entries = {key: list(entry) for key, entry in sorted(self._entries.items())}
        yield from self._requests(entries)
        yield from self._durations(entries)
        for place, name, text in (
            (_RECEIVED, "received_bytes_total", "Bytes of request bodies read."),
            (_SENT, "sent_bytes_total", "Bytes of answers begun."),
        ):
            yield from head(self._prefix + name, "counter", text)
            total = sum(entry[place] for entry in entries.values())
            yield sample(self._prefix + name, (), (), total)

    def _requests(self, entries: dict[Key, list[float]]) -> Iterator[str]:
        name = self._prefix + "requests_total"
        yield from head(name, "counter", "Answers.")
        for (route, method, status), entry in entries.items():
            labels = (route, method, str(status))
            yield sample(name, ("route", "method", "status"), labels, sum(entry[_COUNTS:]))

    def _durations(self, entries: dict[Key, list[float]]) -> Iterator[str]:
        name = self._prefix + "request_duration_seconds"
        yield from head(name, "histogram", "From a request's head to the start of its answer.")
        totals: defaultdict[str, float] = defaultdict(float)
        counts: dict[str, list[float]] = {}
        for (route, _, _), entry in entries.items():
            totals[route] += entry[_SECONDS]
            before = counts.get(route, [0] * (len(_BOUNDS_S) + 1))
            counts[route] = [a + b for a, b in zip(before, entry[_COUNTS:], strict=True)]
        for route, found in counts.items():
            yield from buckets(name, ("route",), (route,), _BOUNDS_S, found, totals[route])
