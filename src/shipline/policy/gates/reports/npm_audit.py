"""`npm audit --json`, report version 2."""

from __future__ import annotations

from typing import BinaryIO

from shipline.policy.gates.reports.fields import Fields
from shipline.policy.gates.reports.json_stream import JsonReader
from shipline.policy.gates.reports.report import Report, ReportError, Subject, Tool
from shipline.policy.gates.reports.severity import Severity
from shipline.policy.gates.reports.vulnerabilities import Vulnerabilities, Vulnerability


def parse(source: BinaryIO) -> Report:
    """One vulnerability for each advisory of each package. Raises ReportError for the document
    that npm writes when the registry did not answer: its exit code is that of findings.
    """
    reader = JsonReader(source)
    head: dict[str, object] = {}
    found: dict[str, Vulnerability] = {}
    for key in reader.members():
        if key == "vulnerabilities" and reader.kind() == "{":
            for name in reader.members():
                for one in _package(Fields(reader.value(), name)):
                    found.setdefault(one.key, one)
        else:
            head[key] = reader.value()
    reader.finish()
    value = Fields(head, "the report")
    if value.raw("auditReportVersion") != 2:
        raise ReportError(_refusal(value))
    dependencies = value.child("metadata").child("dependencies")
    total = dependencies.count("total") if "total" in dependencies else None
    content = Vulnerabilities(tuple(found.values()), total)
    return Report("npm-audit", content, Subject("source"), tool=Tool("npm audit"))


def _refusal(value: Fields) -> str:
    error = value.child("error") if isinstance(value.raw("error"), dict) else Fields({}, "error")
    told = (error.text("summary"), value.text("message"), error.text("code"))
    if "error" in value or any(told):
        reason = next(filter(None, told), "npm does not tell why")
        return f"npm audit failed: {reason[:200]}"
    return "not a report of npm audit version 2"


def _package(value: Fields) -> list[Vulnerability]:
    """Its own advisories; a text in `via` names a dependency whose advisory stands there."""
    fixable = value.raw("fixAvailable")
    fixed = ("available",) if fixable is True else ()
    if isinstance(fixable, dict):
        offer = value.child("fixAvailable")
        fixed = (f"{offer.text('name')} {offer.text('version')}",)
    return [
        _advisory(Fields(via, "an advisory"), value, fixed)
        for via in value.listing("via")
        if not isinstance(via, str)
    ]


def _advisory(via: Fields, value: Fields, fixed: tuple[str, ...]) -> Vulnerability:
    url = via.text("url").rpartition("/")[2]
    source = via.raw("source")
    return Vulnerability(
        url if url.startswith("GHSA-") else f"npm:{source}",
        via.text("name") or value.text("name"),
        severity=Severity.named(via.text("severity") or value.text("severity")),
        aliases=(f"npm:{source}",) if url.startswith("GHSA-") else (),
        fixed=fixed,
        path=next(iter(value.texts("nodes")), ""),
        score=via.child("cvss").number("score"),
    )
