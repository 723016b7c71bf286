"""Clover XML, as PHPUnit, Istanbul and OpenClover write it."""

from __future__ import annotations

from typing import BinaryIO

from shipline.policy.gates.reports.coverage import Collector, Ratio
from shipline.policy.gates.reports.fields import line_number, whole
from shipline.policy.gates.reports.report import Report, Tool, epoch
from shipline.policy.gates.reports.xml_stream import Start, read_xml


def parse(source: BinaryIO) -> Report:
    """`stmt` and `cond` lines are what can be covered; `method` lines only name a place."""
    collector = Collector()
    path = generated = version = ""
    hits: dict[int, int] = {}
    branches = Ratio()
    for event in read_xml(source):
        attributes = event.attributes if isinstance(event, Start) else {}
        match event.name, isinstance(event, Start):
            case "coverage", True:
                generated, version = attributes.get("generated", ""), attributes.get("clover", "")
            case "file", True:
                path = attributes.get("path") or attributes.get("name", "")
                hits, branches = {}, Ratio()
            case "line", True if attributes.get("type") != "method":
                line = line_number(whole(attributes.get("num", ""), "line number"))
                count, taken = _line(attributes.get("type", ""), dict(attributes))
                hits[line] = max(hits.get(line, 0), count)
                branches += taken
            case "file", False:
                collector.add(path, hits, branches)
    created = epoch(float(generated)) if generated.isdigit() and len(generated) < 20 else None
    return Report("clover", collector.coverage(), created=created, tool=Tool("clover", version))


def _line(kind: str, attributes: dict[str, str]) -> tuple[int, Ratio]:
    if kind == "cond":
        true = whole(attributes.get("truecount", "0"), "truecount")
        false = whole(attributes.get("falsecount", "0"), "falsecount")
        count = whole(attributes.get("count", str(true + false)), "count")
        return count, Ratio(bool(true) + bool(false), 2)
    return whole(attributes.get("count", ""), "count"), Ratio()
