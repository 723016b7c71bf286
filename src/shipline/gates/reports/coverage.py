"""Coverage: which lines of which files ran."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

LAST_LINE = 10_000_000  # no source file is longer: a larger number is an attack or an error


class LineSet:
    """Sorted line numbers, four bytes each: reports list millions of them."""

    __slots__ = ("_lines",)

    def __init__(self, lines: Iterable[int] = ()) -> None:
        self._lines = array("I", sorted(set(lines)))

    def __contains__(self, line: int) -> bool:
        index = bisect_left(self._lines, line)
        return index < len(self._lines) and self._lines[index] == line

    def __iter__(self) -> Iterator[int]:
        return iter(self._lines)

    def __len__(self) -> int:
        return len(self._lines)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LineSet) and self._lines == other._lines

    def __hash__(self) -> int:
        return hash(self._lines.tobytes())

    def __repr__(self) -> str:
        return f"LineSet({list(self._lines)})"

    def __or__(self, other: LineSet) -> LineSet:
        return LineSet((*self, *other)) if len(self) and len(other) else (self if self else other)

    def __sub__(self, other: LineSet) -> LineSet:
        return LineSet(line for line in self if line not in other)


@dataclass(frozen=True, slots=True)
class Ratio:
    """`hit` of `total`."""

    hit: int = 0
    total: int = 0

    @property
    def percent(self) -> float | None:
        """None if `total` is 0."""
        return 100 * self.hit / self.total if self.total else None

    def __add__(self, other: Ratio) -> Ratio:
        return Ratio(self.hit + other.hit, self.total + other.total)

    def __or__(self, other: Ratio) -> Ratio:
        """What two runs over the same code prove at least."""
        return Ratio(max(self.hit, other.hit), max(self.total, other.total))


@dataclass(frozen=True, slots=True)
class FileCoverage:
    """One file: the lines that ran and those that did not. `counted` is the tool's own measure
    where that is not lines (Go counts statements, a summary lists no lines).
    """

    covered: LineSet = field(default_factory=LineSet)
    missed: LineSet = field(default_factory=LineSet)
    branches: Ratio = field(default_factory=Ratio)
    counted: Ratio | None = None

    @property
    def ratio(self) -> Ratio:
        if self.counted is not None:
            return self.counted
        return Ratio(len(self.covered), len(self.covered) + len(self.missed))

    def __or__(self, other: FileCoverage) -> FileCoverage:
        """Of two runs: a line ran if it ran in either."""
        covered = self.covered | other.covered
        counted = None
        if self.counted is not None or other.counted is not None:
            counted = self.ratio | other.ratio
        missed = (self.missed | other.missed) - covered
        return FileCoverage(covered, missed, self.branches | other.branches, counted)


@dataclass(frozen=True, slots=True)
class Coverage:
    """Files by their path in the report; `roots` are directories that paths may be relative to."""

    files: Mapping[str, FileCoverage]
    roots: tuple[str, ...] = ()

    @property
    def lines(self) -> Ratio:
        return sum((file.ratio for file in self.files.values()), Ratio())

    @property
    def branches(self) -> Ratio:
        return sum((file.branches for file in self.files.values()), Ratio())

    def __or__(self, other: Coverage) -> Coverage:
        files = dict(self.files)
        for path, file in other.files.items():
            files[path] = files[path] | file if path in files else file
        return Coverage(files, tuple(dict.fromkeys((*self.roots, *other.roots))))


_TOLERANCE = 0.01  # of totals: tools round, and count a line of two classes once or twice


def contradictions(stated: Ratio, *listed: Ratio) -> tuple[str, ...]:
    """Why a report proves less than the lines that it lists: its own totals, `stated`, are worse.

    `listed` are the ways to count the listed lines, of which one must match.
    """
    problems = [_contradiction(stated, ratio) for ratio in listed]
    return () if "" in problems else (problems[0],)


def _contradiction(stated: Ratio, listed: Ratio) -> str:
    if stated.total > listed.total * (1 + _TOLERANCE):
        return f"its totals count {stated.total:,} lines, but it lists {listed.total:,}"
    if (stated.percent or 0.0) < (listed.percent or 0.0) - 100 * _TOLERANCE and stated.total:
        counted = f"{stated.hit:,} of {stated.total:,}"
        return f"its totals count {counted} lines covered, but it lists {listed.hit:,} covered"
    return ""


class Collector:
    """Collects the files of a report, whose parts may be scattered over it."""

    def __init__(self) -> None:
        self._files: dict[str, FileCoverage] = {}

    def add(self, path: str, hits: Mapping[int, int], branches: Ratio | None = None) -> None:
        """Add a part of a file: `hits` are executions by line number."""
        covered = LineSet(line for line, count in hits.items() if count)
        missed = LineSet(line for line, count in hits.items() if not count)
        self.add_part(path, FileCoverage(covered, missed, branches or Ratio()))

    def add_part(self, path: str, part: FileCoverage) -> None:
        known = self._files.get(path)
        self._files[path] = part if known is None else _combined(known, part)

    def coverage(self, roots: Iterable[str] = ()) -> Coverage:
        """All files that were added."""
        return Coverage(self._files, tuple(roots))


def _combined(known: FileCoverage, part: FileCoverage) -> FileCoverage:
    """Two parts of one file in one report: their branches are distinct."""
    covered = known.covered | part.covered
    counted = None
    if known.counted is not None and part.counted is not None:
        counted = known.counted + part.counted
    missed = (known.missed | part.missed) - covered
    return FileCoverage(covered, missed, known.branches + part.branches, counted)
