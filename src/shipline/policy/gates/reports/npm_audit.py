"""`npm audit --json`, report version 2."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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
    packages: dict[str, Fields] | None = None
    for key in reader.members():
        if key == "vulnerabilities":
            packages = {name: Fields(reader.value(), name) for name in reader.members()}
        else:
            head[key] = reader.value()
    reader.finish()
    value = Fields(head, "the report")
    if value.raw("auditReportVersion") != 2:
        raise ReportError(_refusal(value))
    if packages is None:
        raise ReportError("not a report of npm audit: it has no vulnerabilities")
    metadata = value.having("metadata").child("metadata")
    if metadata.child("vulnerabilities").count("total") > len(packages):
        raise ReportError("it counts more vulnerable packages than it lists")
    dependencies = metadata.child("dependencies")
    total = dependencies.count("total") if "total" in dependencies else None
    content = Vulnerabilities(tuple(_found(packages)), total)
    return Report("npm-audit", content, Subject("source"), tool=Tool("npm audit"))


def _refusal(value: Fields) -> str:
    error = value.child("error") if isinstance(value.raw("error"), dict) else Fields({}, "error")
    told = (error.text("summary"), value.text("message"), error.text("code"))
    if "error" in value or any(told):
        reason = next(filter(None, told), "npm does not say why")
        return f"npm audit failed: {reason[:200]}"
    return "not a report of npm audit version 2"


def _found(packages: Mapping[str, Fields]) -> Iterable[Vulnerability]:
    """The advisories of all packages; a package that leads to none stands for itself."""
    found: dict[str, Vulnerability] = {}
    for name, value in packages.items():
        value.having("name", "severity", "via")
        own = [_advisory(via, value) for via in _advisories(value)]
        if not own and not _explained(name, packages):
            severity = Severity.named(value.text("severity"))
            own = [Vulnerability(f"npm:{name}", name, severity=severity, fixed=_fixed(value))]
        for one in own:
            found.setdefault(one.key, one)
    return found.values()


def _advisories(value: Fields) -> list[Fields]:
    """Its own; a text in `via` names a dependency whose advisory stands there."""
    return [Fields(via, "an advisory") for via in value.listing("via") if not isinstance(via, str)]


def _explained(name: str, packages: Mapping[str, Fields]) -> bool:
    """Whether the names in `via` lead from a package to an advisory."""
    seen, waiting = set[str](), [name]
    while waiting:
        value = packages.get(waiting.pop())
        if value is None:
            continue
        if _advisories(value):
            return True
        names = {via for via in value.listing("via") if isinstance(via, str)}
        waiting += names - seen
        seen |= names
    return False


def _fixed(value: Fields) -> tuple[str, ...]:
    offer = value.raw("fixAvailable")
    if isinstance(offer, dict):
        named = value.child("fixAvailable")
        return (f"{named.text('name')} {named.text('version')}",)
    return ("available",) if offer is True else ()


def _advisory(via: Fields, value: Fields) -> Vulnerability:
    via.having("source")
    url = via.text("url").rpartition("/")[2]
    source = via.raw("source")
    return Vulnerability(
        url if url.startswith("GHSA-") else f"npm:{source}",
        via.text("name") or value.text("name"),
        severity=Severity.named(via.text("severity") or value.text("severity")),
        aliases=(f"npm:{source}",) if url.startswith("GHSA-") else (),
        fixed=_fixed(value),
        path=next(iter(value.texts("nodes")), ""),
        score=via.child("cvss").number("score"),
    )
