"""JaCoCo XML (report.dtd 1.1)."""

from __future__ import annotations

from typing import BinaryIO

from shipline.policy.gates.reports.coverage import Collector, Ratio
from shipline.policy.gates.reports.fields import line_number, whole
from shipline.policy.gates.reports.report import Report, ReportError, Tool, epoch
from shipline.policy.gates.reports.xml_stream import Start, read_xml


def parse(source: BinaryIO) -> Report:
    """A line ran when one of its instructions did, as JaCoCo itself counts lines."""
    collector = Collector()
    package = path = dump = ""
    hits: dict[int, int] = {}
    branches = Ratio()
    for event in read_xml(source, roots=("report",)):
        attributes = event.attributes if isinstance(event, Start) else {}
        match event.name, isinstance(event, Start):
            case "sessioninfo", True:
                dump = max(dump, attributes.get("dump", ""), key=lambda text: (len(text), text))
            case "package", True:
                package = attributes.get("name", "")
            case "report", True if "name" not in attributes:
                raise ReportError("not a report of JaCoCo: it has no name")
            case "sourcefile", True:
                path = "/".join(filter(None, (package, attributes.get("name", ""))))
                hits, branches = {}, Ratio()
            case "line", True:
                line = line_number(whole(attributes.get("nr", ""), "line number"))
                hits[line] = whole(attributes.get("ci", "0"), "covered instructions")
                taken = whole(attributes.get("cb", "0"), "covered branches")
                missed = whole(attributes.get("mb", "0"), "missed branches")
                branches += Ratio(taken, taken + missed)
            case "sourcefile", False:
                collector.add(path, hits, branches)
    created = epoch(float(dump)) if dump.isdigit() and len(dump) < 20 else None
    return Report("jacoco", collector.coverage(), created=created, tool=Tool("JaCoCo"))
