"""Istanbul: `coverage-final.json` (lines and branches) and `coverage-summary.json` (counts)."""

from __future__ import annotations

from typing import BinaryIO

from shipline.policy.gates.reports.coverage import Collector, Coverage, FileCoverage, Ratio
from shipline.policy.gates.reports.fields import Fields, line_number
from shipline.policy.gates.reports.json_stream import JsonReader
from shipline.policy.gates.reports.report import Report, ReportError, Tool


def parse_final(source: BinaryIO) -> Report:
    """A line ran as often as the statement on it that ran most, as Istanbul counts lines."""
    collector = Collector()
    reader = JsonReader(source)
    for path in reader.members():
        value = Fields(reader.value(), path)
        data = value.child("data") if "data" in value else value
        data.having("path", "statementMap", "s", "b")
        collector.add(data.text("path") or path, _hits(data), _branches(data))
    reader.finish()
    if not collector.coverage().files:
        raise ReportError("not a report of Istanbul: it names no file")
    return Report("istanbul", collector.coverage(), tool=Tool("istanbul"))


def parse_summary(source: BinaryIO) -> Report:
    """Without the lines: changed lines cannot be judged by it."""
    files: dict[str, FileCoverage] = {}
    total: FileCoverage | None = None
    reader = JsonReader(source)
    for path in reader.members():
        one = _counts(Fields(reader.value(), path))
        if path == "total":
            total = one
        else:
            files[path] = one
    reader.finish()
    if total is None:
        raise ReportError("not a summary of Istanbul: it has no total")
    if not files:
        files = {"total": total}
    return Report("istanbul-summary", Coverage(files), tool=Tool("istanbul"))


def _hits(data: Fields) -> dict[int, int]:
    counts, hits = data.child("s"), dict[int, int]()
    places = data.child("statementMap")
    for key in places:
        start = places.child(key).child("start")
        line = line_number(start.raw("line"))
        if key not in counts:
            raise ReportError(f"statement {key[:20]} has no count")
        hits[line] = max(hits.get(line, 0), counts.count(key))
    return hits


def _branches(data: Fields) -> Ratio:
    branches = data.child("b")
    counts = [count for key in branches for count in branches.listing(key)]
    if not all(isinstance(count, int) and count >= 0 for count in counts):
        raise ReportError("a branch count is not a number from zero on")
    return Ratio(sum(map(bool, counts)), len(counts))


def _counts(value: Fields) -> FileCoverage:
    value.having("lines")
    return FileCoverage(
        counted=_ratio(value.child("lines")), branches=_ratio(value.child("branches"))
    )


def _ratio(value: Fields) -> Ratio:
    hit, total = value.count("covered"), value.count("total")
    if hit > total:
        raise ReportError(f"{hit} of {total} lines are covered")
    return Ratio(hit, total)
