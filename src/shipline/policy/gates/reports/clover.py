"""Clover XML, as PHPUnit, Istanbul and OpenClover write it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import BinaryIO

from shipline.policy.gates.reports.coverage import Collector, Ratio
from shipline.policy.gates.reports.fields import line_number, whole
from shipline.policy.gates.reports.report import Report, ReportError, Tool, epoch
from shipline.policy.gates.reports.xml_stream import Start, read_xml


def parse(source: BinaryIO) -> Report:
    """`stmt` and `cond` lines are what can be covered; `method` lines only name a place.

    Branches are those of the file's metrics: Istanbul writes into `truecount` and `falsecount` how
    many branches of the line ran and did not, others how often it came out so.
    """
    collector = Collector()
    path = generated = version = ""
    hits: dict[int, int] = {}
    branches = Ratio()
    measured: Ratio | None = None
    in_class = False
    for event in read_xml(source, roots=("coverage",)):
        attributes = event.attributes if isinstance(event, Start) else {}
        match event.name, isinstance(event, Start):
            case "coverage", True:
                if not {"clover", "generated"} & attributes.keys():
                    raise ReportError("not a report of Clover: it does not say when it was made")
                generated, version = attributes.get("generated", ""), attributes.get("clover", "")
            case "file", True:
                path = attributes.get("path") or attributes.get("name", "")
                hits, branches, measured = {}, Ratio(), None
            case "class", begins:
                in_class = begins
            case "metrics", True if not in_class:
                measured = _measured(attributes)
            case "line", True if attributes.get("type") != "method":
                line = line_number(whole(attributes.get("num", ""), "line number"))
                count, taken = _line(attributes.get("type", ""), dict(attributes))
                hits[line] = max(hits.get(line, 0), count)
                branches += taken
            case "file", False:
                collector.add(path, hits, measured or branches)
    created = epoch(float(generated)) if generated.isdigit() and len(generated) < 20 else None
    return Report("clover", collector.coverage(), created=created, tool=Tool("clover", version))


def _measured(attributes: Mapping[str, str]) -> Ratio | None:
    """The branches that the metrics of a file tell; None where they tell none."""
    total = whole(attributes.get("conditionals", "0"), "conditionals")
    hit = whole(attributes.get("coveredconditionals", "0"), "coveredconditionals")
    if hit > total:
        raise ReportError(f"{hit} of {total} conditionals cannot be covered")
    return Ratio(hit, total) if total else None


def _line(kind: str, attributes: dict[str, str]) -> tuple[int, Ratio]:
    if kind == "cond":
        true = whole(attributes.get("truecount", "0"), "truecount")
        false = whole(attributes.get("falsecount", "0"), "falsecount")
        count = whole(attributes.get("count", str(true + false)), "count")
        return count, Ratio(bool(true) + bool(false), 2)
    return whole(attributes.get("count", ""), "count"), Ratio()
