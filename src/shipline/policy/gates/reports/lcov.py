"""lcov trace files (geninfo(1), "TRACEFILE FORMAT")."""

from __future__ import annotations

from typing import BinaryIO

from shipline.policy.gates.reports.coverage import Collector, Ratio
from shipline.policy.gates.reports.fields import line_number, whole
from shipline.policy.gates.reports.report import Report, ReportError, Tool
from shipline.policy.gates.reports.text_stream import read_lines


def parse(source: BinaryIO) -> Report:
    """Raises ReportError for a record that does not end, which a cut off file has."""
    collector = Collector()
    path, records = "", 0
    hits: dict[int, int] = {}
    branches: dict[str, bool] = {}
    for line in read_lines(source):
        word, _, rest = line.partition(":")
        match word:
            case "SF":
                path, hits, branches = rest, {}, {}
            case "DA":
                number, count = _line(rest)
                hits[number] = hits.get(number, 0) + count
            case "BRDA":
                place, _, taken = rest.rpartition(",")
                branches[place] = branches.get(place, False) or taken not in ("-", "0")
            case "end_of_record":
                collector.add(path, hits, Ratio(sum(branches.values()), len(branches)))
                path, records = "", records + 1
    if path:
        raise ReportError(f"the record of {path} has no end: the file is cut off")
    if not records:
        raise ReportError("not a trace of lcov: it has no record of a source file")
    return Report("lcov", collector.coverage(), tool=Tool("lcov"))


def _line(text: str) -> tuple[int, int]:
    number, _, rest = text.partition(",")
    return (
        line_number(whole(number, "line number")),
        whole(rest.partition(",")[0], "execution count"),
    )
