"""The JSON report of OSV-Scanner."""

from __future__ import annotations

from typing import BinaryIO

from shipline.policy.gates.reports.fields import Fields
from shipline.policy.gates.reports.json_stream import JsonReader
from shipline.policy.gates.reports.report import Report, ReportError, Subject, Tool, moment
from shipline.policy.gates.reports.severity import Severity
from shipline.policy.gates.reports.vulnerabilities import Vulnerabilities, Vulnerability


def parse(source: BinaryIO) -> Report:
    """One vulnerability for each group: its members are the same one under several names.

    Without `--all-packages` only packages with vulnerabilities are listed, so their number says
    nothing about what was looked at. Many tools call a list of theirs `results`: an empty one is
    OSV-Scanner's where its `experimental_config` stands beside it.
    """
    reader = JsonReader(source)
    found: list[Vulnerability] = []
    own = False
    for key in reader.members():
        own = own or key == "experimental_config"
        if key == "results":
            for _ in reader.elements():
                _source(reader, found)
                own = True
    reader.finish()
    if not own:
        raise ReportError("not a report of OSV-Scanner: it has neither results nor its settings")
    return Report("osv", Vulnerabilities(tuple(found)), Subject(), tool=Tool("osv-scanner"))


def _source(reader: JsonReader, found: list[Vulnerability]) -> None:
    path, packages = "", None
    for key in reader.members():
        if key == "source":
            path = Fields(reader.value(), "a source").name("path")
        elif key == "packages":
            packages = [Fields(reader.value(), "a package") for _ in reader.elements()]
    if not path or packages is None:
        raise ReportError("a result has no source, or no packages")
    for package in packages:
        found += _package(package, path)


def _package(value: Fields, path: str) -> list[Vulnerability]:
    value.having("package").child("package").having("name")
    known = {one.name("id"): one for one in value.children("vulnerabilities")}
    groups = [(one.texts("ids"), one) for one in value.children("groups")]
    grouped = {name for ids, _ in groups for name in ids}
    alone = Fields({}, "a group")
    groups += [((name,), alone) for name in known if name not in grouped]
    return [
        _vulnerability(value.child("package"), path, ids, group, known)
        for ids, group in groups
        if ids
    ]


def _vulnerability(
    package: Fields,
    path: str,
    ids: tuple[str, ...],
    group: Fields,
    known: dict[str, Fields],
) -> Vulnerability:
    members = [known[name] for name in ids if name in known]
    aliases = [*ids[1:], *group.texts("aliases")]
    aliases += [alias for one in members for alias in one.texts("aliases")]
    score = _score(group.text("max_severity"))
    severity = Severity.scored(score) if score else Severity.UNKNOWN
    named = [Severity.named(one.child("database_specific").text("severity")) for one in members]
    dates = [moment(one.text("published")) for one in members]
    return Vulnerability(
        ids[0],
        package.text("name"),
        package.text("version"),
        max((severity, *named)),
        tuple(dict.fromkeys(name for name in aliases if name != ids[0])),
        fixed=tuple(sorted({version for one in members for version in _fixed(one, package)})),
        published=min((date for date in dates if date), default=None),
        path=path,
        score=score,
    )


def _fixed(value: Fields, package: Fields) -> list[str]:
    return [
        event.text("fixed")
        for affected in value.children("affected")
        if affected.child("package").text("name") == package.text("name")
        for span in affected.children("ranges")
        if span.text("type") != "GIT"
        for event in span.children("events")
        if "fixed" in event
    ]


def _score(text: str) -> float:
    try:
        return float(text) if len(text) < 10 else 0.0
    except ValueError:
        return 0.0
