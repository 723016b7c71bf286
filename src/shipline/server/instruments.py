"""Counters, gauges and histograms, in the text format of Prometheus (version 0.0.4).

Labels are given by position, in the order in which the instrument names them. Keep their values
few: each combination is a series that every scrape carries.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

Labels = tuple[str, ...]
Readings = float | Mapping[Labels, float]
_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n"})


class Instrument(Protocol):
    def lines(self) -> Iterator[str]:
        """The family as text, a line each."""


class Counter:
    """A number that only grows. Safe to use from any thread."""

    def __init__(self, name: str, text: str, labels: Labels) -> None:
        self._name, self._text, self._labels = name, text, labels
        self._lock = threading.Lock()
        self._values: dict[Labels, float] = {} if labels else {(): 0}

    def add(self, *labels: str, by: float = 1) -> None:
        """Count one more, or `by`, under these label values."""
        with self._lock:
            self._values[labels] = self._values.get(labels, 0) + by

    def lines(self) -> Iterator[str]:
        with self._lock:
            values = sorted(self._values.items())
        yield from _head(self._name, "counter", self._text)
        for labels, value in values:
            yield f"{self._name}{_pairs(self._labels, labels)} {value:.17g}"


class Gauge:
    """What `read` says at the time of the scrape: a number, or one for each label values."""

    def __init__(self, name: str, text: str, labels: Labels, read: Callable[[], Readings]) -> None:
        self._name, self._text, self._labels = name, text, labels
        self._kind = "counter" if name.endswith("_total") else "gauge"
        self._read = read

    def lines(self) -> Iterator[str]:
        found = self._read()
        values = found if isinstance(found, Mapping) else {(): found}
        yield from _head(self._name, self._kind, self._text)
        for labels, value in sorted(values.items()):
            yield f"{self._name}{_pairs(self._labels, labels)} {value:.17g}"


class Histogram:
    """How many observations lie at or below each bound, in ascending order of `bounds`."""

    def __init__(self, name: str, text: str, labels: Labels, bounds: tuple[float, ...]) -> None:
        self._name, self._text, self._labels = name, text, labels
        self._bounds = bounds
        self._lock = threading.Lock()
        self._counts: dict[Labels, list[int]] = {}
        self._sums: dict[Labels, float] = {}

    def observe(self, value: float, *labels: str) -> None:
        place = bisect_left(self._bounds, value)
        with self._lock:
            counts = self._counts.get(labels)
            if counts is None:
                counts = self._counts[labels] = [0] * (len(self._bounds) + 1)
                self._sums[labels] = 0.0
            counts[place] += 1
            self._sums[labels] += value

    def lines(self) -> Iterator[str]:
        with self._lock:
            found = [(key, list(counts), self._sums[key]) for key, counts in self._counts.items()]
        yield from _head(self._name, "histogram", self._text)
        names = (*self._labels, "le")
        for labels, counts, total in sorted(found):
            below = 0
            for bound, count in zip((*map(str, self._bounds), "+Inf"), counts, strict=True):
                below += count
                yield f"{self._name}_bucket{_pairs(names, (*labels, bound))} {below}"
            yield f"{self._name}_sum{_pairs(self._labels, labels)} {total:.17g}"
            yield f"{self._name}_count{_pairs(self._labels, labels)} {below}"


def render(instruments: list[Instrument]) -> str:
    """What a scrape is answered with."""
    return "".join(f"{line}\n" for instrument in instruments for line in instrument.lines())


def _head(name: str, kind: str, text: str) -> tuple[str, str]:
    return f"# HELP {name} {text}", f"# TYPE {name} {kind}"


def _pairs(names: Labels, values: Labels) -> str:
    if not names:
        return ""
    pairs = zip(names, values, strict=True)
    return "{" + ",".join(f'{name}="{value.translate(_ESCAPES)}"' for name, value in pairs) + "}"
