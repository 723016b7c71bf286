"""Counters and gauges, in the text format of Prometheus (version 0.0.4).

Labels are given by position, in the order in which the instrument names them. Keep their values
few: each combination is a series that every scrape carries.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
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
        yield from head(self._name, "counter", self._text)
        for labels, value in values:
            yield sample(self._name, self._labels, labels, value)


class Gauge:
    """What `read` says at the time of the scrape: a number, or one for each label values."""

    def __init__(self, name: str, text: str, labels: Labels, read: Callable[[], Readings]) -> None:
        self._name, self._text, self._labels = name, text, labels
        self._kind = "counter" if name.endswith("_total") else "gauge"
        self._read = read

    def lines(self) -> Iterator[str]:
        found = self._read()
        values = found if isinstance(found, Mapping) else {(): found}
        yield from head(self._name, self._kind, self._text)
        for labels, value in sorted(values.items()):
            yield sample(self._name, self._labels, labels, value)


def render(instruments: list[Instrument]) -> str:
    """What a scrape is answered with."""
    return "".join(f"{line}\n" for instrument in instruments for line in instrument.lines())


def head(name: str, kind: str, text: str) -> tuple[str, str]:
    """What stands above the samples of a family."""
    return f"# HELP {name} {text}", f"# TYPE {name} {kind}"


def sample(name: str, names: Labels, values: Labels, value: float) -> str:
    """One line; exact for numbers of bytes."""
    return f"{name}{_pairs(names, values)} {value:.17g}"


def buckets(
    name: str,
    names: Labels,
    values: Labels,
    bounds: Sequence[float],
    counts: Sequence[float],
    total: float,
) -> Iterator[str]:
    """A histogram's lines; `counts` has one more than `bounds`, `total` is the sum of values."""
    below: float = 0
    for bound, count in zip((*map(str, bounds), "+Inf"), counts, strict=True):
        below += count
        yield sample(f"{name}_bucket", (*names, "le"), (*values, bound), below)
    yield sample(f"{name}_sum", names, values, total)
    yield sample(f"{name}_count", names, values, below)


def _pairs(names: Labels, values: Labels) -> str:
    if not names:
        return ""
    pairs = zip(names, values, strict=True)
    return "{" + ",".join(f'{name}="{value.translate(_ESCAPES)}"' for name, value in pairs) + "}"
