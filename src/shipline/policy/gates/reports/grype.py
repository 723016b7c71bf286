"""Grype's JSON report, read match by match."""

from __future__ import annotations

from typing import BinaryIO, Literal

from shipline.policy.gates.reports.fields import Fields
from shipline.policy.gates.reports.json_stream import JsonReader
from shipline.policy.gates.reports.report import Report, ReportError, Subject, Tool, moment
from shipline.policy.gates.reports.severity import Severity
from shipline.policy.gates.reports.vulnerabilities import Vulnerabilities, Vulnerability
from shipline.units import counted


def parse(source: BinaryIO) -> Report:
    """Grype does not say how many packages it looked at; it does say what it left out itself."""
    reader = JsonReader(source)
    head: dict[str, object] = {}
    found: list[Vulnerability] = []
    ignored = 0
    for key in reader.members():
        if key == "ignoredMatches" and reader.kind() == "[":
            ignored = sum(1 for _ in reader.elements())
        elif key == "matches":
            for _ in reader.elements():
                found.append(_match(Fields(reader.value(), "a match")))
            head[key] = True
        elif key in ("source", "descriptor"):
            head[key] = reader.value()
    reader.finish()
    value = Fields(head, "the report").having("matches", "source")
    descriptor = value.child("descriptor")
    if descriptor.text("name") != "grype":
        raise ReportError("not a report of Grype: its descriptor does not name it")
    database = descriptor.child("db")
    built = database.text("built") or database.child("status").text("built")
    return Report(
        "grype",
        Vulnerabilities(tuple(found)),
        _subject(value.child("source")),
        moment(descriptor.text("timestamp")),
        Tool("grype", descriptor.text("version"), moment(built)),
        warnings=(f"{counted(ignored, 'match', 'matches')} left out by Grype's own rules",)
        if ignored
        else (),
    )


def _subject(source: Fields) -> Subject:
    if source.text("type") != "image":
        return Subject("source" if source.text("type") else "")
    target = source.child("target")
    names = (target.text("manifestDigest"), target.text("imageID"), *target.texts("repoDigests"))
    digests = frozenset(name.rpartition("@")[2] for name in names if "sha256:" in name)
    kind: Literal["image"] = "image"
    parts = (target.text("os"), target.text("architecture"), target.text("variant"))
    return Subject(kind, digests, "/".join(filter(None, parts)) if parts[1] else "")


def _match(match: Fields) -> Vulnerability:
    match.having("vulnerability", "artifact")
    value, artifact = match.child("vulnerability"), match.child("artifact")
    fix = value.child("fix")
    dates = [moment(one.text("date")) for one in fix.children("available")]
    related = (one.text("id") for one in match.children("relatedVulnerabilities"))
    return Vulnerability(
        value.name("id"),
        artifact.name("name"),
        artifact.text("version"),
        Severity.named(value.text("severity")),
        tuple(name for name in related if name != value.text("id")),
        artifact.text("purl"),
        fix.texts("versions"),
        min((date for date in dates if date), default=None),
        status=fix.text("state"),
        path=next((one.text("path") for one in artifact.children("locations")), ""),
        score=max(
            (one.child("metrics").number("baseScore") for one in value.children("cvss")),
            default=0.0,
        ),
        epss=max((one.number("epss") for one in value.children("epss")), default=0.0),
        exploited=bool(value.listing("knownExploited")),
    )
