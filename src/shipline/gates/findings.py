"""The gates of static analysis and secrets: which findings count."""

from __future__ import annotations

from collections.abc import Iterator

from shipline.gates.context import GateContext, RepositoryPaths
from shipline.gates.reports import Finding, Findings, Level
from shipline.gates.section import FindingsGate
from shipline.gates.thresholds import at_most, undecided
from shipline.gates.verdict import Check, Measurements
from shipline.gates.waivers import Waivers, expired_checks

_HINT = "fix them, or write a waiver with an owner, a reason and an end date"


def judge_findings(
    rules: FindingsGate, reports: list[Findings], waivers: Waivers, gate: str
) -> tuple[list[Check], Measurements]:
    """Checks on all reports together."""
    findings = [
        finding for report in reports for finding in report.findings if finding.state != "absent"
    ]
    keys = frozenset(finding.key for finding in findings)
    return [*_checks(rules, findings, waivers, gate)], Measurements(
        {"findings": len(findings)}, keys
    )


def _checks(
    rules: FindingsGate, findings: list[Finding], waivers: Waivers, gate: str
) -> Iterator[Check]:
    context = waivers.context
    counting = [finding for finding in findings if _counts(rules, finding)]
    new = on = ""
    if rules.new_only:
        counting, new = [finding for finding in counting if _new(finding, context, gate)], "new "
    if rules.changed_lines_only:
        if context.changes is None:
            yield undecided("findings", "there is no base to compare with", "name one: --base main")
            return
        counting, on = _on_changed_lines(counting, context), " on changed lines"
    split = waivers.split(gate, counting)
    noun = (f"{new}finding{on}", f"{new}findings{on}")
    yield at_most("findings", split, rules.max, noun=noun, hint=_HINT)
    yield from expired_checks(split.expired)


def _counts(rules: FindingsGate, finding: Finding) -> bool:
    if finding.suppressed and rules.suppressed == "ignore":
        return False
    if finding.level >= Level[rules.level.upper()]:
        return True
    return rules.severity is not None and finding.severity >= rules.severity


def _new(finding: Finding, context: GateContext, gate: str) -> bool:
    """Compared with the baseline, else by the tool itself (SARIF baselineState), else new."""
    before = context.before(gate)
    if before is not None:
        return finding.key not in before.keys
    return finding.state not in ("unchanged", "updated")


def _on_changed_lines(findings: list[Finding], context: GateContext) -> list[Finding]:
    """Findings without a location, or with an ambiguous one, are kept."""
    assert context.changes is not None
    changes, paths = context.changes, RepositoryPaths(context.changes)
    kept = []
    for finding in findings:
        files = paths.find(finding.path) if finding.path else ()
        if len(files) != 1 or changes.touches(files[0], finding.line):
            kept.append(finding)
    return kept
