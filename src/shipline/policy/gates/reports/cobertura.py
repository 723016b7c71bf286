"""Cobertura XML, as coverage.py, pycobertura, gcovr, Istanbul, coverlet and others write it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import BinaryIO

from shipline.policy.gates.reports.coverage import Collector, Ratio
from shipline.policy.gates.reports.fields import line_number, whole
from shipline.policy.gates.reports.report import Report, ReportError, Tool, epoch
from shipline.policy.gates.reports.xml_stream import End, Start, read_xml

_CONDITIONS = re.compile(r"\((\d{1,6})/(\d{1,6})\)")


def parse(source: BinaryIO) -> Report:
    """Lines stand twice, in `methods` and in the class: only the class's own are the truth, and
    where a writer leaves those out, the methods' are taken.
    """
    collector = Collector()
    roots: list[str] = []
    head: Start | None = None
    events = read_xml(source, roots=("coverage",), texts=("source",))
    for event in events:
        if isinstance(event, Start):
            head = head or event
            if event.name == "class":
                _class(event.attributes.get("filename", ""), events, collector)
            elif event is head and {"clover", "generated"} & event.attributes.keys():
                raise ReportError("not a report of Cobertura but of Clover")
        elif event.name == "source" and event.text.strip():
            roots.append(event.text.strip())
    attributes = head.attributes if head else {}
    created = attributes.get("timestamp", "")
    return Report(
        "cobertura",
        collector.coverage(roots),
        created=epoch(float(created)) if created.isdigit() and len(created) < 20 else None,
        tool=Tool("cobertura", attributes.get("version", "")),
    )


def _class(path: str, events: Iterator[Start | End], collector: Collector) -> None:
    if not path:
        raise ReportError("a class has no filename")
    hits: dict[bool, dict[int, int]] = {True: {}, False: {}}
    branches: dict[bool, dict[int, Ratio]] = {True: {}, False: {}}
    in_methods = False
    for event in events:
        if isinstance(event, End) and event.name == "class":
            break
        if event.name == "methods":
            in_methods = isinstance(event, Start)
        elif isinstance(event, Start) and event.name == "line":
            line = line_number(whole(event.attributes.get("number", ""), "line number"))
            count = whole(event.attributes.get("hits", ""), "hits")
            hits[in_methods][line] = max(count, hits[in_methods].get(line, 0))
            told = event.attributes.get("condition-coverage")
            if told and (conditions := _CONDITIONS.search(told)):
                branches[in_methods][line] = Ratio(int(conditions[1]), int(conditions[2]))
    own = not hits[False]
    collector.add(path, hits[own], sum(branches[own].values(), Ratio()))
