"""The JSON report of coverage.py (`coverage json`)."""

from __future__ import annotations

from typing import BinaryIO

from shipline.policy.gates.reports.coverage import Collector, Ratio
from shipline.policy.gates.reports.fields import Fields
from shipline.policy.gates.reports.json_stream import JsonReader
from shipline.policy.gates.reports.report import Report, Tool, local_moment


def parse(source: BinaryIO) -> Report:
    collector = Collector()
    head: dict[str, object] = {}
    reader = JsonReader(source)
    for key in reader.members():
        if key in ("meta", "totals"):
            head[key] = reader.value()
        elif key == "files":
            head[key] = True
            for path in reader.members():
                _file(path, Fields(reader.value(), path), collector)
    reader.finish()
    meta = Fields(head, "the report").having("meta", "files", "totals").child("meta")
    return Report(
        "coverage.py",
        collector.coverage(),
        created=local_moment(meta.text("timestamp")),
        tool=Tool("coverage.py", meta.name("version")),
    )


def _file(path: str, value: Fields, collector: Collector) -> None:
    value.having("executed_lines", "missing_lines", "summary")
    hits = dict.fromkeys(value.lines("missing_lines"), 0)
    hits |= dict.fromkeys(value.lines("executed_lines"), 1)
    summary = value.child("summary")
    branches = Ratio(summary.count("covered_branches"), summary.count("num_branches"))
    collector.add(path, hits, branches)
