"""The vulnerability gate: which vulnerabilities count, and how many may."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime

from shipline.gates.context import GateContext
from shipline.gates.report_files import ReportFile
from shipline.gates.reports import Severity, VexStatement, Vulnerabilities, Vulnerability
from shipline.gates.section import VulnerabilitiesGate
from shipline.gates.thresholds import at_most, shown_age, undecided
from shipline.gates.verdict import Check, Measurements
from shipline.gates.waivers import WaivedFindings, Waivers, expired_checks
from shipline.units import Duration
from shipline.values import replace

_MAX_DATABASE_AGE = Duration(5 * 86_400_000)  # the limit of Grype itself
_HINT = "update the packages, or write a waiver with an owner, a reason and an end date"


def judge_vulnerabilities(
    rules: VulnerabilitiesGate,
    reports: Sequence[ReportFile],
    statements: Sequence[VexStatement],
    waivers: Waivers,
    gate: str,
) -> tuple[list[Check], Measurements]:
    """Checks on all reports together. Findings of several tools with the same identifier, package,
    version and path are one vulnerability.
    """
    merged: dict[tuple[str, str, str, str], Vulnerability] = {}
    for vulnerability in _vulnerabilities(reports):
        key = (vulnerability.id, vulnerability.package, vulnerability.version, vulnerability.path)
        merged[key] = _merged(merged[key], vulnerability) if key in merged else vulnerability
    measured = Measurements(
        {"vulnerabilities": len(merged)},
        frozenset(vulnerability.key for vulnerability in merged.values()),
    )
    checks = [
        *_database_checks(rules, reports, waivers.context),
        *_empty_scan_checks(rules, reports),
    ]
    checks += _limit_checks(rules, merged.values(), statements, waivers, gate)
    return checks, measured


def _vulnerabilities(reports: Sequence[ReportFile]) -> Iterator[Vulnerability]:
    for file in reports:
        if file.report is not None and isinstance(file.report.content, Vulnerabilities):
            yield from file.report.content.vulnerabilities


def _merged(left: Vulnerability, right: Vulnerability) -> Vulnerability:
    """The findings of two tools for one vulnerability: the worse value of each field."""
    worst = max(left, right, key=lambda item: item.severity)
    exploited = left.exploited or right.exploited
    return replace(worst, exploited=exploited, epss=max(left.epss, right.epss))


def _limit_checks(
    rules: VulnerabilitiesGate,
    vulnerabilities: Iterable[Vulnerability],
    statements: Sequence[VexStatement],
    waivers: Waivers,
    gate: str,
) -> Iterator[Check]:
    before = waivers.context.before(gate) if rules.new_only else None
    known_keys = before.keys if before else frozenset()
    new = [
        vulnerability for vulnerability in vulnerabilities if vulnerability.key not in known_keys
    ]
    counting = waivers.split(
        gate,
        [
            vulnerability
            for vulnerability in new
            if _counts(rules, vulnerability, waivers.context.now)
        ],
        statements,
    )
    age = "new " if rules.new_only else ""
    noun = (f"{age}vulnerability", f"{age}vulnerabilities")
    limit = rules.total_max
    if limit is not None:
        yield at_most(
            "vulnerabilities",
            counting,
            limit,
            noun=noun,
            hint=_HINT,
            note=_severity_counts(counting.kept),
        )
    for name, limit in rules.max_by_severity.items():
        severity = Severity.parse(name)
        of_severity = WaivedFindings(
            tuple(
                vulnerability
                for vulnerability in counting.kept
                if vulnerability.severity in (severity, Severity.UNKNOWN)
            ),
            tuple(
                pair for pair in counting.waived if pair[0].severity in (severity, Severity.UNKNOWN)
            ),
        )
        severity_noun = (f"{severity} {noun[0]}", f"{severity} {noun[1]}")
        yield at_most(str(severity), of_severity, limit, noun=severity_noun, hint=_HINT)
    yield from expired_checks(counting.expired)


def _counts(rules: VulnerabilitiesGate, vulnerability: Vulnerability, now: datetime) -> bool:
    """Exploited vulnerabilities count whatever the other rules say."""
    if vulnerability.exploited and rules.exploited == "count":
        return True
    if rules.epss is not None and vulnerability.epss >= rules.epss:
        return True
    if vulnerability.severity is not Severity.UNKNOWN and vulnerability.severity < rules.fail_on:
        return False
    if vulnerability.status and vulnerability.status in rules.ignore_statuses:
        return False
    if rules.fix == "available" and not vulnerability.fixed:
        return False
    return not _in_grace(rules.grace, vulnerability, now)


def _in_grace(grace: Duration | None, vulnerability: Vulnerability, now: datetime) -> bool:
    """The grace period begins with the fix, or, if its date is unknown, with the publication of the
    vulnerability; if both are unknown there is none.
    """
    since = vulnerability.fix_date or vulnerability.published
    return grace is not None and since is not None and (now - since).total_seconds() < grace.seconds


def _severity_counts(vulnerabilities: Sequence[Vulnerability]) -> str:
    counts = dict.fromkeys(reversed(Severity), 0)
    for vulnerability in vulnerabilities:
        counts[vulnerability.severity] += 1
    listed = [f"{count} {severity}" for severity, count in counts.items() if count]
    return f" ({', '.join(listed)})" if listed else ""


def _database_checks(
    rules: VulnerabilitiesGate, reports: Sequence[ReportFile], context: GateContext
) -> Iterator[Check]:
    limit = rules.max_database_age or _MAX_DATABASE_AGE
    for file in reports:
        built = file.report.tool.database if file.report else None
        if built is not None:
            age = context.now - built.astimezone(UTC)
            if age.total_seconds() > limit.seconds:
                shown = shown_age(age)
                reason = (
                    f"{file.path}: the vulnerability database is {shown} old, more than {limit}"
                )
                yield undecided("database", reason, "update the database and scan again")
        elif file.report is not None and rules.max_database_age is not None:
            reason = f"{file.path} does not say how old the vulnerability database is"
            hint = f"{file.report.format} reports do not have it: remove max-database-age"
            yield undecided("database", reason, hint)


def _empty_scan_checks(
    rules: VulnerabilitiesGate, reports: Sequence[ReportFile]
) -> Iterator[Check]:
    for file in reports:
        content = file.report.content if file.report else None
        nothing = isinstance(content, Vulnerabilities) and content.packages_scanned == 0
        if nothing and not rules.allow_empty:
            yield undecided(
                "packages",
                f"{file.path}: no package was scanned",
                "check that the scanner supports this project; allow-empty if it has no packages",
            )
