"""The vulnerability gate: which vulnerabilities count, and how many may."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from shipline.gates.context import GateContext
from shipline.gates.evidence import ReportFile
from shipline.gates.reports import Severity, VexStatement, Vulnerabilities, Vulnerability
from shipline.gates.section import VulnerabilitiesGate
from shipline.gates.thresholds import at_most, shown_age, undecided
from shipline.gates.verdict import Check, Measurements
from shipline.gates.waivers import WaivedFindings, Waivers, expired_checks
from shipline.units import Duration

_DATABASE_AGE = Duration(5 * 86_400_000)  # what Grype itself refuses
_HINT = "update the packages, or write a waiver with an owner, a reason and an end date"


def judge_vulnerabilities(
    rules: VulnerabilitiesGate,
    reports: Sequence[ReportFile],
    statements: Sequence[VexStatement],
    waivers: Waivers,
    gate: str,
) -> tuple[list[Check], Measurements]:
    """Checks for one or more reports taken together: what two tools found is one vulnerability
    where identifier, package and version are equal.
    """
    found: dict[tuple[str, str, str, str], Vulnerability] = {}
    for one in _all(reports):
        key = (one.id, one.package, one.version, one.path)
        found[key] = _worse(found[key], one) if key in found else one
    measured = Measurements(
        {"vulnerabilities": len(found)}, frozenset(one.key for one in found.values())
    )
    checks = [*_database(rules, reports, waivers.context), *_looked(rules, reports)]
    checks += _conditions(rules, found.values(), statements, waivers, gate)
    return checks, measured


def _all(reports: Sequence[ReportFile]) -> Iterator[Vulnerability]:
    for one in reports:
        if one.report is not None and isinstance(one.report.content, Vulnerabilities):
            yield from one.report.content.found


def _worse(one: Vulnerability, other: Vulnerability) -> Vulnerability:
    """Two tools about the same: what each knows to be bad is bad."""
    worst = max(one, other, key=lambda item: item.severity)
    exploited = one.exploited or other.exploited
    return replace(worst, exploited=exploited, epss=max(one.epss, other.epss))


def _conditions(
    rules: VulnerabilitiesGate,
    found: Iterable[Vulnerability],
    statements: Sequence[VexStatement],
    waivers: Waivers,
    gate: str,
) -> Iterator[Check]:
    before = waivers.context.before(gate) if rules.new_only else None
    known = before.keys if before else frozenset()
    new = [one for one in found if one.key not in known]
    bad = waivers.sort(
        gate, [one for one in new if _counts(rules, one, waivers.context.now)], statements
    )
    age = "new " if rules.new_only else ""
    what = (f"{age}vulnerability", f"{age}vulnerabilities")
    most = rules.total_max
    if most is not None:
        yield at_most("vulnerabilities", bad, most, what=what, hint=_HINT, note=_worst(bad.kept))
    for name, limit in rules.max_by_severity.items():
        severity = Severity.parse(name)
        some = WaivedFindings(
            tuple(one for one in bad.kept if one.severity in (severity, Severity.UNKNOWN)),
            tuple(pair for pair in bad.waived if pair[0].severity in (severity, Severity.UNKNOWN)),
        )
        named = (f"{severity} {what[0]}", f"{severity} {what[1]}")
        yield at_most(str(severity), some, limit, what=named, hint=_HINT)
    yield from expired_checks(bad.expired)


def _counts(rules: VulnerabilitiesGate, one: Vulnerability, now: datetime) -> bool:
    """Exploitation outweighs everything that would leave it out."""
    if one.exploited and rules.exploited == "count":
        return True
    if rules.epss is not None and one.epss >= rules.epss:
        return True
    if one.severity is not Severity.UNKNOWN and one.severity < rules.fail_on:
        return False
    if one.status and one.status in rules.ignore_statuses:
        return False
    if rules.fix == "available" and not one.fixed:
        return False
    return not _in_grace(rules.grace, one, now)


def _in_grace(grace: Duration | None, one: Vulnerability, now: datetime) -> bool:
    """A fix counts from its date; where no date is known, from when the vulnerability was
    published, and where that is not known either there is no grace.
    """
    since = one.fix_date or one.published
    return grace is not None and since is not None and (now - since).total_seconds() < grace.seconds


def _worst(found: Sequence[Vulnerability]) -> str:
    counts = dict.fromkeys(reversed(Severity), 0)
    for one in found:
        counts[one.severity] += 1
    told = [f"{count} {severity}" for severity, count in counts.items() if count]
    return f" ({', '.join(told)})" if told else ""


def _database(
    rules: VulnerabilitiesGate, reports: Sequence[ReportFile], context: GateContext
) -> Iterator[Check]:
    limit = rules.max_database_age or _DATABASE_AGE
    for one in reports:
        built = one.report.tool.database if one.report else None
        if built is not None:
            age = context.now - built.astimezone(UTC)
            if age.total_seconds() > limit.seconds:
                old = shown_age(age)
                reason = f"{one.path}: the vulnerability database is {old} old, more than {limit}"
                yield undecided("database", reason, "update the database and scan again")
        elif one.report is not None and rules.max_database_age is not None:
            reason = f"{one.path} does not tell how old the vulnerability database is"
            hint = f"{one.report.format} does not write it: leave max-database-age out"
            yield undecided("database", reason, hint)


def _looked(rules: VulnerabilitiesGate, reports: Sequence[ReportFile]) -> Iterator[Check]:
    for one in reports:
        content = one.report.content if one.report else None
        nothing = isinstance(content, Vulnerabilities) and content.looked_at == 0
        if nothing and not rules.allow_empty:
            yield undecided(
                "packages",
                f"{one.path}: the tool looked at no package",
                "see whether it knows this kind of project; allow-empty for an image from scratch",
            )
