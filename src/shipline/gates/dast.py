"""The gate of dynamic analysis: what a scanner found in a running service, and that it was this
service which it scanned.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from shipline.gates.report_files import ReportFile
from shipline.gates.reports import (
    Confidence,
    Finding,
    FindingLevel,
    Findings,
    Report,
    Severity,
    WebFindings,
    target_of,
)
from shipline.gates.section import DastGate
from shipline.gates.thresholds import at_most, listed, undecided
from shipline.gates.verdict import Check, Measurements
from shipline.gates.waivers import Waivers, expired_checks

_HINT = "fix them, or write a waiver with an owner, a reason and an end date"
_LEVELS = {
    FindingLevel.ERROR: Severity.HIGH,
    FindingLevel.WARNING: Severity.MEDIUM,
    FindingLevel.NOTE: Severity.LOW,
    FindingLevel.NONE: Severity.NEGLIGIBLE,
}
"""ZAP's SARIF has the risk as a level (Report Generation, "SARIF JSON Report")."""

_FOUND_ON = re.compile(r" found on (\S+)\Z")


def judge_dast(
    rules: DastGate, files: Sequence[ReportFile], waivers: Waivers, gate: str
) -> tuple[list[Check], Measurements]:
    """Checks on all reports together."""
    before = waivers.context.before(gate) if rules.new_only else None
    known = before.keys if before else frozenset[str]()
    reports = [(file.path, web_findings(file.report)) for file in files if file.report]
    findings = [one for _, report in reports for one in report.findings if one.state != "absent"]
    new = [one for one in findings if one.key not in known]
    split = waivers.split(gate, [one for one in new if _counts(rules, one)])
    age = "new " if rules.new_only else ""
    noun = (f"{age}finding", f"{age}findings")
    checks = [
        *_target_checks(rules, reports),
        at_most("findings", split, rules.max, noun=noun, hint=_HINT),
        *expired_checks(split.expired),
    ]
    keys = frozenset(one.key for one in findings)
    return checks, Measurements({"findings": len(findings)}, keys)


def web_findings(report: Report) -> WebFindings:
    """The findings of a report, and the targets that it shows; SARIF shows those of its results."""
    if isinstance(report.content, WebFindings):
        return report.content
    found = report.content.findings if isinstance(report.content, Findings) else ()
    targets = {target_of(one.path) for one in found if "://" in one.path}
    targets |= {target_of(match[1]) for one in found if (match := _FOUND_ON.search(one.message))}
    return WebFindings(found, frozenset(filter(None, targets)))


def severity_of(finding: Finding) -> Severity:
    """Its severity; in SARIF without `security-severity`, the one that its level stands for."""
    levels_only = finding.severity is Severity.UNKNOWN and finding.tool != "Nuclei"
    return _LEVELS[finding.level] if levels_only else finding.severity


def _counts(rules: DastGate, finding: Finding) -> bool:
    """Findings without a severity or a confidence count, whatever the limits are."""
    if finding.suppressed or finding.confidence is Confidence.FALSE_POSITIVE:
        return False
    if finding.confidence is not None and finding.confidence < rules.confidence:
        return False
    severity = severity_of(finding)
    return severity is Severity.UNKNOWN or severity >= rules.fail_on


def _target_checks(rules: DastGate, reports: Sequence[tuple[str, WebFindings]]) -> Iterator[Check]:
    for path, report in reports:
        if not report.targets:
            yield undecided(
                "target",
                f"{path} does not say what was scanned",
                "use ZAP's traditional JSON, or Nuclei's JSON lines with -matcher-status",
            )
        elif rules.target and not _same(rules.target, report.targets):
            yield undecided(
                "target",
                f"{path} is about {listed(sorted(report.targets))}, not {rules.target}",
                "scan the service at this address, or correct `target`",
            )


def _same(target: str, scanned: frozenset[str]) -> bool:
    """Whether the target is among those scanned; some tools write hosts without ports."""
    wanted = target_of(target)
    return wanted in scanned or wanted.rpartition(":")[0] in scanned
