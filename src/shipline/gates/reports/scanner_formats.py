"""Vulnerability reports: Grype, OSV-Scanner, Trivy, `npm audit`, pip-audit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import BinaryIO, Literal

from shipline.gates.reports.fields import Fields
from shipline.gates.reports.report import (
    Report,
    ReportError,
    ReportSubject,
    Severity,
    Tool,
    Vulnerabilities,
    Vulnerability,
    parse_time,
)
from shipline.gates.reports.streams import JsonReader
from shipline.units import counted
from shipline.values import replace


def parse_grype(source: BinaryIO) -> Report:
    """Grype does not report the number of packages, but the matches that its own rules ignored."""
    reader = JsonReader(source)
    head: dict[str, object] = {}
    vulnerabilities: list[Vulnerability] = []
    ignored = 0
    for key in reader.members():
        if key == "ignoredMatches" and reader.kind() == "[":
            ignored = sum(1 for _ in reader.elements())
        elif key == "matches":
            for _ in reader.elements():
                vulnerabilities.append(_grype_vulnerability(Fields(reader.value(), "a match")))
            head[key] = True
        elif key in ("source", "descriptor"):
            head[key] = reader.value()
    reader.finish()
    value = Fields(head, "the report").require("matches", "source")
    descriptor = value.child("descriptor")
    if descriptor.text("name") != "grype":
        raise ReportError("not a Grype report: its descriptor has another name")
    database = descriptor.child("db")
    built = database.text("built") or database.child("status").text("built")
    return Report(
        "grype",
        Vulnerabilities(tuple(vulnerabilities)),
        _grype_subject(value.child("source")),
        parse_time(descriptor.text("timestamp")),
        Tool("grype", descriptor.text("version"), parse_time(built)),
        warnings=(f"{counted(ignored, 'match', 'matches')} ignored by Grype's own rules",)
        if ignored
        else (),
    )


def _grype_subject(source: Fields) -> ReportSubject:
    if source.text("type") != "image":
        return ReportSubject("source" if source.text("type") else "")
    target = source.child("target")
    names = (target.text("manifestDigest"), target.text("imageID"), *target.texts("repoDigests"))
    digests = frozenset(name.rpartition("@")[2] for name in names if "sha256:" in name)
    kind: Literal["image"] = "image"
    parts = (target.text("os"), target.text("architecture"), target.text("variant"))
    return ReportSubject(kind, digests, "/".join(filter(None, parts)) if parts[1] else "")


def _grype_vulnerability(match: Fields) -> Vulnerability:
    match.require("vulnerability", "artifact")
    value, artifact = match.child("vulnerability"), match.child("artifact")
    fix = value.child("fix")
    dates = [parse_time(fix_date.text("date")) for fix_date in fix.children("available")]
    related = (
        related_match.text("id") for related_match in match.children("relatedVulnerabilities")
    )
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
        path=next((location.text("path") for location in artifact.children("locations")), ""),
        score=max(
            (score.child("metrics").number("baseScore") for score in value.children("cvss")),
            default=0.0,
        ),
        epss=max((score.number("epss") for score in value.children("epss")), default=0.0),
        exploited=bool(value.elements("knownExploited")),
    )


def parse_osv(source: BinaryIO) -> Report:
    """One vulnerability for each group, whose members are aliases.

    Without `--all-packages` only vulnerable packages are listed, so the number of scanned packages
    is unknown, unless every result lists none. Many tools have a list `results`: an empty one is
    OSV-Scanner's only with an `experimental_config`.
    """
    reader = JsonReader(source)
    vulnerabilities: list[Vulnerability] = []
    recognised = False
    listed: list[int] = []
    for key in reader.members():
        recognised = recognised or key == "experimental_config"
        if key == "results":
            for _ in reader.elements():
                listed.append(_read_osv_result(reader, vulnerabilities))
                recognised = True
    reader.finish()
    if not recognised:
        raise ReportError(
            "not an OSV-Scanner report: it has neither results nor experimental_config"
        )
    scanned = 0 if listed and not any(listed) else None
    content = Vulnerabilities(tuple(vulnerabilities), scanned)
    return Report("osv", content, ReportSubject(), tool=Tool("osv-scanner"))


def _read_osv_result(reader: JsonReader, vulnerabilities: list[Vulnerability]) -> int:
    """Add the vulnerabilities of a result; returns the number of packages it lists."""
    path, packages = "", None
    for key in reader.members():
        if key == "source":
            path = Fields(reader.value(), "a source").name("path")
        elif key == "packages":
            packages = [Fields(reader.value(), "a package") for _ in reader.elements()]
    if not path or packages is None:
        raise ReportError("a result has no source, or no packages")
    for package in packages:
        vulnerabilities += _osv_packages(package, path)
    return len(packages)


def _osv_packages(value: Fields, path: str) -> list[Vulnerability]:
    value.require("package").child("package").require("name")
    advisories = {advisory.name("id"): advisory for advisory in value.children("vulnerabilities")}
    groups = [(group.texts("ids"), group) for group in value.children("groups")]
    grouped = {name for ids, _ in groups for name in ids}
    no_group = Fields({}, "a group")
    groups += [((name,), no_group) for name in advisories if name not in grouped]
    return [
        _osv_vulnerability(value.child("package"), path, ids, group, advisories)
        for ids, group in groups
        if ids
    ]


def _osv_vulnerability(
    package: Fields, path: str, ids: tuple[str, ...], group: Fields, advisories: dict[str, Fields]
) -> Vulnerability:
    members = [advisories[name] for name in ids if name in advisories]
    aliases = [*ids[1:], *group.texts("aliases")]
    aliases += [alias for member in members for alias in member.texts("aliases")]
    score = _osv_score(group.text("max_severity"))
    severity = Severity.scored(score) if score else Severity.UNKNOWN
    severities = [
        Severity.named(member.child("database_specific").text("severity")) for member in members
    ]
    dates = [parse_time(member.text("published")) for member in members]
    return Vulnerability(
        ids[0],
        package.text("name"),
        package.text("version"),
        max((severity, *severities)),
        tuple(dict.fromkeys(name for name in aliases if name != ids[0])),
        fixed=tuple(
            sorted({version for member in members for version in _osv_fixed(member, package)})
        ),
        published=min((date for date in dates if date), default=None),
        path=path,
        score=score,
    )


def _osv_fixed(value: Fields, package: Fields) -> list[str]:
    return [
        event.text("fixed")
        for affected in value.children("affected")
        if affected.child("package").text("name") == package.text("name")
        for span in affected.children("ranges")
        if span.text("type") != "GIT"
        for event in span.children("events")
        if "fixed" in event
    ]


def _osv_score(text: str) -> float:
    try:
        return float(text) if len(text) < 10 else 0.0
    except ValueError:
        return 0.0


_IMAGE_TYPES = ("container_image", "cyclonedx")


def parse_trivy(source: BinaryIO) -> Report:
    """Trivy reports neither the age of its database nor, without `--list-all-pkgs`, the scanned
    packages: `packages_scanned` counts its targets.
    """
    reader = JsonReader(source)
    head: dict[str, object] = {}
    vulnerabilities: list[Vulnerability] = []
    targets = 0
    for key in reader.members():
        if key == "Results" and reader.kind() != "n":  # null: there was nothing to scan
            for _ in reader.elements():
                targets += _read_trivy_target(reader, vulnerabilities)
        elif key != "Results":
            head[key] = reader.value()
    reader.finish()
    value = Fields(head, "the report")
    if value.raw("SchemaVersion") != 2:
        raise ReportError(f"Trivy's schema version {value.raw('SchemaVersion')!r:.20} is not 2")
    value.name("ArtifactName")
    system = value.child("Metadata").child("OS")
    warning = (f"{system.text('Family')} {system.text('Name')} gets no more security updates",)
    return Report(
        "trivy",
        Vulnerabilities(tuple(vulnerabilities), targets),
        _trivy_subject(value),
        parse_time(value.text("CreatedAt")),
        Tool("Trivy", value.child("Trivy").text("Version")),
        warnings=warning if system.flag("EOSL") else (),
    )


def _trivy_subject(value: Fields) -> ReportSubject:
    metadata = value.child("Metadata")
    config = metadata.child("ImageConfig")
    names = (value.text("ArtifactName"), *metadata.texts("RepoDigests"))
    digests = {name.rpartition("@")[2] for name in names if "@sha256:" in name}
    if metadata.text("ImageID"):
        digests.add(metadata.text("ImageID"))
    kind: Literal["image", "source"] = (
        "image" if value.text("ArtifactType") in _IMAGE_TYPES or digests else "source"
    )
    parts = (config.text("os"), config.text("architecture"), config.text("variant"))
    revision = metadata.text("Commit")
    return ReportSubject(kind, frozenset(digests), "/".join(filter(None, parts)), revision)


def _read_trivy_target(reader: JsonReader, vulnerabilities: list[Vulnerability]) -> int:
    """Adds the vulnerabilities of one target; returns 1 if it is a kind that can have any."""
    in_target: list[Vulnerability] = []
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
                in_target.append(_trivy_vulnerability(Fields(reader.value(), "a vulnerability")))
    if not target:
        raise ReportError("a result has no Target")
    vulnerabilities += [
        vulnerability if vulnerability.path else replace(vulnerability, path=target)
        for vulnerability in in_target
    ]
    return int(bool(in_target or packages or kind in ("os-pkgs", "lang-pkgs")))


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
        published=parse_time(value.text("PublishedDate")),
        status=value.text("Status"),
        path=value.text("PkgPath"),
        score=score,
    )


def _trivy_score(vendor: Fields) -> float:
    return max(vendor.number(key) for key in ("V40Score", "V3Score", "V2Score"))


_NPM_SEVERITIES = ("info", "low", "moderate", "high", "critical")


def parse_npm_audit(source: BinaryIO) -> Report:
    """One vulnerability for each advisory and package. Raises ReportError for the document that npm
    writes if the registry fails, with the exit code of findings.
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
        raise _npm_failure(value)
    if packages is None:
        raise ReportError("not an npm audit report: it has no vulnerabilities")
    metadata = value.require("metadata").child("metadata")
    counted = metadata.child("vulnerabilities")
    severities = sum(counted.count(name) for name in _NPM_SEVERITIES if name in counted)
    if max(counted.count("total"), severities) > len(packages):
        raise ReportError("it counts more vulnerable packages than it lists")
    dependencies = metadata.child("dependencies")
    total = dependencies.count("total") if "total" in dependencies else None
    content = Vulnerabilities(tuple(_npm_vulnerabilities(packages)), total)
    return Report("npm-audit", content, ReportSubject("source"), tool=Tool("npm audit"))


def _npm_failure(value: Fields) -> ReportError:
    error = value.child("error") if isinstance(value.raw("error"), dict) else Fields({}, "error")
    texts = (error.text("summary"), value.text("message"), error.text("code"))
    if "error" in value or any(texts):
        reason = next(filter(None, texts), "npm gives no reason")
        return ReportError(
            f"npm audit failed: {reason[:200]}",
            hint="run it again when npm's registry can be asked",
        )
    return ReportError("not an npm audit report of version 2")


def _npm_vulnerabilities(packages: Mapping[str, Fields]) -> Iterable[Vulnerability]:
    """The advisories of all packages; a package that leads to none counts itself."""
    merged: dict[str, Vulnerability] = {}
    for name, value in packages.items():
        value.require("name", "severity", "via")
        advisories = [_npm_vulnerability(via, value) for via in _advisories(value)]
        if not advisories and not _leads_to_advisory(name, packages):
            severity = Severity.named(value.text("severity"))
            advisories = [
                Vulnerability(f"npm:{name}", name, severity=severity, fixed=_npm_fix(value))
            ]
        for vulnerability in advisories:
            merged.setdefault(vulnerability.key, vulnerability)
    return merged.values()


def _advisories(value: Fields) -> list[Fields]:
    """Its own advisories; a string in `via` names a dependency that has the advisory."""
    return [Fields(via, "an advisory") for via in value.elements("via") if not isinstance(via, str)]


def _leads_to_advisory(name: str, packages: Mapping[str, Fields]) -> bool:
    """Whether the dependencies in `via` lead from the package to an advisory."""
    seen, waiting = set[str](), [name]
    while waiting:
        value = packages.get(waiting.pop())
        if value is None:
            continue
        if _advisories(value):
            return True
        names = {via for via in value.elements("via") if isinstance(via, str)}
        waiting += names - seen
        seen |= names
    return False


def _npm_fix(value: Fields) -> tuple[str, ...]:
    offer = value.raw("fixAvailable")
    if isinstance(offer, dict):
        fix = value.child("fixAvailable")
        return (f"{fix.text('name')} {fix.text('version')}",)
    return ("available",) if offer is True else ()


def _npm_vulnerability(via: Fields, value: Fields) -> Vulnerability:
    via.require("source")
    url = via.text("url").rpartition("/")[2]
    source = via.raw("source")
    return Vulnerability(
        url if url.startswith("GHSA-") else f"npm:{source}",
        via.text("name") or value.text("name"),
        severity=Severity.named(via.text("severity") or value.text("severity")),
        aliases=(f"npm:{source}",) if url.startswith("GHSA-") else (),
        fixed=_npm_fix(value),
        path=next(iter(value.texts("nodes")), ""),
        score=via.child("cvss").number("score"),
    )


_NAMES_SHOWN = 5  # skipped packages listed by name


class _PipAudit:
    def __init__(self) -> None:
        self.vulnerabilities: list[Vulnerability] = []
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
        value.require("version", "vulns")
        self.vulnerabilities += [
            _pip_audit_vulnerability(value, vulnerability)
            for vulnerability in value.children("vulns")
        ]

    @property
    def gaps(self) -> tuple[str, ...]:
        if not self.skipped:
            return ()
        names = ", ".join(self.skipped[:_NAMES_SHOWN]) + (
            ", ..." if len(self.skipped) > _NAMES_SHOWN else ""
        )
        packages = counted(len(self.skipped), "package was", "packages were")
        return (f"{packages} not audited ({names}): {self.reason[:200]}",)


def parse_pip_audit(source: BinaryIO) -> Report:
    """Skipped packages are a gap: pip-audit exits with status 0 in spite of them. It reports no
    severities.
    """
    reader, audit = JsonReader(source), _PipAudit()
    if reader.kind() == "[":  # version 1 wrote a plain list
        audit.read(reader)
        if not audit.audited and not audit.skipped:
            raise ReportError("an empty list does not show which tool wrote it")
    else:
        has_dependencies = False
        for key in reader.members():
            if key == "dependencies":
                has_dependencies = True
                audit.read(reader)
        if not has_dependencies:
            raise ReportError("not a pip-audit report: it has no dependencies")
    reader.finish()
    packages_scanned = audit.audited + len(audit.skipped)
    content = Vulnerabilities(tuple(audit.vulnerabilities), packages_scanned)
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
