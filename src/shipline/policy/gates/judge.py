"""From evidence to a verdict: the one function that every gate goes through."""

from __future__ import annotations

from collections.abc import Sequence

from shipline.policy.gates.counting import skipped, undecided
from shipline.policy.gates.coverage import judge_coverage
from shipline.policy.gates.evidence import Evidence
from shipline.policy.gates.findings import judge_findings
from shipline.policy.gates.reports import (
    Content,
    Coverage,
    Findings,
    Report,
    Sbom,
    TestResults,
    Vex,
    VexStatement,
    Vulnerabilities,
)
from shipline.policy.gates.sbom import judge_sbom
from shipline.policy.gates.section import (
    CoverageGate,
    FindingsGate,
    ReportGate,
    SbomGate,
    TestsGate,
    VulnerabilitiesGate,
)
from shipline.policy.gates.standing import standing
from shipline.policy.gates.tests import judge_tests
from shipline.policy.gates.verdict import Check, Measurements, Outcome, Verdict
from shipline.policy.gates.vulnerabilities import judge_vulnerabilities
from shipline.policy.gates.waiving import Waivers

Judged = tuple[list[Check], Measurements]
_CONTENT: dict[type[ReportGate], type[Content]] = {
    CoverageGate: Coverage,
    TestsGate: TestResults,
    FindingsGate: Findings,
    VulnerabilitiesGate: Vulnerabilities,
    SbomGate: Sbom,
}


def judge(
    gate: str,
    kind: str,
    rules: ReportGate,
    evidence: Sequence[Evidence],
    waivers: Waivers,
    *,
    vex: Sequence[Evidence] = (),
    advisory: bool = False,
) -> Verdict:
    """The verdict of one gate on the reports that were found for it; pure but for the count of used
    waivers.

    What can be judged is judged also where some reports are missing or unreadable: a failure is
    told as one, and success needs all of them. `vex` are the OpenVEX files of a vulnerability gate.
    """
    if rules.skip:
        return Verdict(gate, kind, (skipped("gate", rules.skip),))
    content = next(held for base, held in _CONTENT.items() if isinstance(rules, base))
    usable = [one for one in evidence if one.report and isinstance(one.report.content, content)]
    checks = [*standing(rules, content, evidence, waivers.context)]
    scans = () if checks else _scans(usable)
    measurements = Measurements()
    if usable:
        more, measurements = _conditions(rules, usable, vex, waivers, gate)
        checks += more
    checks += [_unusable(one) for one in vex if one.report is None or not _is_vex(one)]
    warnings = tuple(
        f"{one.path}: {text}" for one in usable if one.report for text in one.report.warnings
    )
    sources = tuple(one.source for one in evidence)
    verdict = Verdict(gate, kind, tuple(checks), sources, measurements, warnings, advisory, scans)
    return waivers.waive(verdict)


def _conditions(
    rules: ReportGate,
    usable: Sequence[Evidence],
    vex: Sequence[Evidence],
    waivers: Waivers,
    gate: str,
) -> Judged:
    contents = [one.report.content for one in usable if one.report]
    match rules:
        case CoverageGate():
            some = [one for one in contents if isinstance(one, Coverage)]
            return judge_coverage(rules, some, waivers.context, gate)
        case TestsGate():
            results = [one for one in contents if isinstance(one, TestResults)]
            return judge_tests(rules, results, waivers.context, gate)
        case FindingsGate():
            found = [one for one in contents if isinstance(one, Findings)]
            return judge_findings(rules, found, waivers, gate)
        case VulnerabilitiesGate():
            return judge_vulnerabilities(rules, usable, _statements(vex), waivers, gate)
        case SbomGate():
            return judge_sbom(rules, [one for one in contents if isinstance(one, Sbom)])
        case _:
            return [undecided("gate", "no rule for this kind of gate")], Measurements()


def _scans(usable: Sequence[Evidence]) -> tuple[Report, ...]:
    reports = [one.report for one in usable if one.report and one.report.subject.kind == "image"]
    return tuple(one for one in reports if isinstance(one.content, Vulnerabilities))


def _is_vex(one: Evidence) -> bool:
    return one.report is not None and isinstance(one.report.content, Vex)


def _statements(vex: Sequence[Evidence]) -> list[VexStatement]:
    return [
        statement
        for one in vex
        if one.report is not None and isinstance(one.report.content, Vex)
        for statement in one.report.content.statements
    ]


def _unusable(one: Evidence) -> Check:
    reason = one.problem or f"{one.path} is not an OpenVEX document"
    return Check("vex", Outcome.ERROR, reason, hint=one.hint or "fix the file, or leave it out")
