"""Vulnerability reports: Grype, OSV-Scanner, Trivy, `npm audit`, pip-audit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import BinaryIO, Literal

from shipline.gates.reports.fields import Fields
from shipline.gates.reports.json_stream import JsonReader
from shipline.gates.reports.report import (
    Report,
    ReportError,
    ReportSubject,
    Severity,
    Tool,
    Vulnerabilities,
    Vulnerability,
    moment,
)
from shipline.units import counted


def parse_grype(source: BinaryIO) -> Report:
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


def _subject(source: Fields) -> ReportSubject:
    if source.text("type") != "image":
        return ReportSubject("source" if source.text("type") else "")
    target = source.child("target")
    names = (target.text("manifestDigest"), target.text("imageID"), *target.texts("repoDigests"))
    digests = frozenset(name.rpartition("@")[2] for name in names if "sha256:" in name)
    kind: Literal["image"] = "image"
    parts = (target.text("os"), target.text("architecture"), target.text("variant"))
    return ReportSubject(kind, digests, "/".join(filter(None, parts)) if parts[1] else "")


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


def parse_osv(source: BinaryIO) -> Report:
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
    return Report("osv", Vulnerabilities(tuple(found)), ReportSubject(), tool=Tool("osv-scanner"))


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


_IMAGE = ("container_image", "cyclonedx")


def parse_trivy(source: BinaryIO) -> Report:
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
        _trivy_subject(value),
        moment(value.text("CreatedAt")),
        Tool("Trivy", value.child("Trivy").text("Version")),
        warnings=end if system.flag("EOSL") else (),
    )


def _trivy_subject(value: Fields) -> ReportSubject:
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
    return ReportSubject(kind, frozenset(digests), "/".join(filter(None, parts)), revision)


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
                here.append(_trivy_vulnerability(Fields(reader.value(), "a vulnerability")))
    if not target:
        raise ReportError("a result has no Target")
    found += [one if one.path else replace(one, path=target) for one in here]
    return int(bool(here or packages or kind in ("os-pkgs", "lang-pkgs")))


def _trivy_vulnerability(value: Fields) -> Vulnerability:
    scores = value.child("CVSS")
    score = max((_trivy_score(scores.child(vendor)) for vendor in scores), default=0.0)
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


def _trivy_score(vendor: Fields) -> float:
    return max(vendor.number(key) for key in ("V40Score", "V3Score", "V2Score"))


def parse_npm_audit(source: BinaryIO) -> Report:
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
    return Report("npm-audit", content, ReportSubject("source"), tool=Tool("npm audit"))


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
            own = [
                Vulnerability(f"npm:{name}", name, severity=severity, fixed=_npm_audit_fixed(value))
            ]
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


def _npm_audit_fixed(value: Fields) -> tuple[str, ...]:
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
        fixed=_npm_audit_fixed(value),
        path=next(iter(value.texts("nodes")), ""),
        score=via.child("cvss").number("score"),
    )


_SHOWN = 5  # skipped packages that are named


class _Audit:
    def __init__(self) -> None:
        self.found: list[Vulnerability] = []
        self.audited = 0
        self.skipped: list[str] = []
        self.reason = ""

    def read(self, reader: JsonReader) -> None:
        for _ in reader.elements():
            self._add(Fields(reader.value(), "a dependency"))

    def _add(self, value: Fields) -> None:
        name = value.name("name")
        if "skip_reason" in value:
            self.skipped.append(name)
            self.reason = self.reason or value.text("skip_reason")
            return
        self.audited += 1
        value.having("version", "vulns")
        self.found += [_pip_audit_vulnerability(value, one) for one in value.children("vulns")]

    @property
    def gaps(self) -> tuple[str, ...]:
        if not self.skipped:
            return ()
        names = ", ".join(self.skipped[:_SHOWN]) + (", ..." if len(self.skipped) > _SHOWN else "")
        packages = counted(len(self.skipped), "package was", "packages were")
        return (f"{packages} not audited ({names}): {self.reason[:200]}",)


def parse_pip_audit(source: BinaryIO) -> Report:
    """Packages that were skipped are a gap: pip-audit calls them clean and ends with status 0.

    pip-audit gives no severities.
    """
    reader, audit = JsonReader(source), _Audit()
    if reader.kind() == "[":  # version 1 wrote the bare list
        audit.read(reader)
        if not audit.audited and not audit.skipped:
            raise ReportError("an empty list does not tell which tool wrote it")
    else:
        seen = False
        for key in reader.members():
            if key == "dependencies":
                seen = True
                audit.read(reader)
        if not seen:
            raise ReportError("not a report of pip-audit: it has no dependencies")
    reader.finish()
    looked_at = audit.audited + len(audit.skipped)
    content = Vulnerabilities(tuple(audit.found), looked_at)
    return Report(
        "pip-audit", content, ReportSubject("source"), tool=Tool("pip-audit"), gaps=audit.gaps
    )


def _pip_audit_vulnerability(package: Fields, value: Fields) -> Vulnerability:
    name, version = package.text("name"), package.text("version")
    return Vulnerability(
        value.name("id"),
        name,
        version,
        aliases=value.texts("aliases"),
        purl=f"pkg:pypi/{name}@{version}",
        fixed=value.texts("fix_versions"),
    )
