"""Trivy's JSON report, schema version 2, read vulnerability by vulnerability."""

from __future__ import annotations

from dataclasses import replace
from typing import BinaryIO, Literal

from shipline.policy.gates.reports.fields import Fields
from shipline.policy.gates.reports.json_stream import JsonReader
from shipline.policy.gates.reports.report import Report, ReportError, Subject, Tool, moment
from shipline.policy.gates.reports.severity import Severity
from shipline.policy.gates.reports.vulnerabilities import Vulnerabilities, Vulnerability

_IMAGE = ("container_image", "cyclonedx")


def parse(source: BinaryIO) -> Report:
    """Trivy writes neither the age of its database nor, without `--list-all-pkgs`, the packages it
    looked at: `looked_at` counts its targets.
    """
    reader = JsonReader(source)
    head: dict[str, object] = {}
    found: list[Vulnerability] = []
    targets = 0
    for key in reader.members():
        if key == "Results" and reader.kind() != "n":  # null: nothing was found to look at
            for _ in reader.elements():
                targets += _target(reader, found)
        elif key != "Results":
            head[key] = reader.value()
    reader.finish()
    value = Fields(head, "the report")
    if value.raw("SchemaVersion") != 2:
        raise ReportError(f"Trivy's schema version {value.raw('SchemaVersion')!r:.20} is not 2")
    value.name("ArtifactName")
    system = value.child("Metadata").child("OS")
    end = (f"{system.text('Family')} {system.text('Name')} gets no more security updates",)
    return Report(
        "trivy",
        Vulnerabilities(tuple(found), targets),
        _subject(value),
        moment(value.text("CreatedAt")),
        Tool("Trivy", value.child("Trivy").text("Version")),
        warnings=end if system.flag("EOSL") else (),
    )


def _subject(value: Fields) -> Subject:
    metadata = value.child("Metadata")
    config = metadata.child("ImageConfig")
    names = (value.text("ArtifactName"), *metadata.texts("RepoDigests"))
    digests = {name.rpartition("@")[2] for name in names if "@sha256:" in name}
    if metadata.text("ImageID"):
        digests.add(metadata.text("ImageID"))
    kind: Literal["image", "source"] = (
        "image" if value.text("ArtifactType") in _IMAGE or digests else "source"
    )
    parts = (config.text("os"), config.text("architecture"), config.text("variant"))
    revision = metadata.text("Commit")
    return Subject(kind, frozenset(digests), "/".join(filter(None, parts)), revision)


def _target(reader: JsonReader, found: list[Vulnerability]) -> int:
    """Adds what was found in one target; 1 if it was one that can have vulnerabilities."""
    here: list[Vulnerability] = []
    target = kind = ""
    packages = False
    for key in reader.members():
        if key in ("Target", "Class"):
            text = str(reader.value())
            target, kind = (text, kind) if key == "Target" else (target, text)
        elif key == "Packages":
            packages = True
        elif key == "Vulnerabilities" and reader.kind() != "n":
            for _ in reader.elements():
                here.append(_vulnerability(Fields(reader.value(), "a vulnerability")))
    if not target:
        raise ReportError("a result has no Target")
    found += [one if one.path else replace(one, path=target) for one in here]
    return int(bool(here or packages or kind in ("os-pkgs", "lang-pkgs")))


def _vulnerability(value: Fields) -> Vulnerability:
    scores = value.child("CVSS")
    score = max((_score(scores.child(vendor)) for vendor in scores), default=0.0)
    fixed = value.text("FixedVersion")
    return Vulnerability(
        value.name("VulnerabilityID"),
        value.name("PkgName"),
        value.text("InstalledVersion"),
        Severity.named(value.text("Severity")),
        value.texts("VendorIDs"),
        value.child("PkgIdentifier").text("PURL"),
        tuple(version.strip() for version in fixed.split(",") if version.strip()),
        published=moment(value.text("PublishedDate")),
        status=value.text("Status"),
        path=value.text("PkgPath"),
        score=score,
    )


def _score(vendor: Fields) -> float:
    return max(vendor.number(key) for key in ("V40Score", "V3Score", "V2Score"))
