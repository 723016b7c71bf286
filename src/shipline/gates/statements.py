"""Verdicts as predicates of in-toto statements about the judged digest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from shipline.gates.context import SUMMARY_TYPE
from shipline.gates.reports import Report, Vulnerabilities, Vulnerability
from shipline.gates.verdict import Check, JudgedReport, Outcome, Verdict, Verdicts

TEST_RESULT = "https://in-toto.io/attestation/test-result/v0.1"
VULNERABILITIES = "https://in-toto.io/attestation/vulns/v0.1"
_RESULTS = {"pass": "PASSED", "fail": "FAILED", "undecided": "FAILED"}
_MAX_DETAILS = 200  # details of a check in a statement
_MAX_KEYS = 100_000  # keys of findings in a summary


@dataclass(frozen=True, slots=True)
class Predicate:
    """A predicate of an in-toto statement: `type` is its predicateType."""

    type: str
    content: Mapping[str, Any]


def predicates(verdicts: Verdicts) -> tuple[Predicate, ...]:
    """The summary of all gates, which later runs use as their baseline; in-toto's test result; and,
    if a scan of the image was judged, in-toto's list of vulnerabilities.

    Source: in-toto attestation framework, predicates test-result v0.1 and vulns v0.1.
    """
    scans = [report for verdict in verdicts for report in verdict.scans]
    content = summary(verdicts, max_details=_MAX_DETAILS)
    predicates = [Predicate(SUMMARY_TYPE, content), Predicate(TEST_RESULT, _test_result(verdicts))]
    return (*predicates, *([_scan(scans, verdicts.at)] if scans else []))


def summary(verdicts: Verdicts, *, max_details: int | None = None) -> dict[str, Any]:
    """The verdicts as JSON, as `shipline gate --json` prints them, with at most `max_details`
    details for each check.
    """
    return {
        "outcome": verdicts.outcome,
        "exitCode": verdicts.exit_code,
        "judgedAt": verdicts.at.isoformat(),
        "revision": verdicts.revision,
        "image": verdicts.image,
        "environment": verdicts.environment,
        "warnings": list(verdicts.warnings),
        "gates": [_gate(verdict, max_details) for verdict in verdicts],
    }


def _gate(verdict: Verdict, max_details: int | None) -> dict[str, Any]:
    return {
        "gate": verdict.gate,
        "kind": verdict.kind,
        "outcome": verdict.outcome.value,
        "blocks": verdict.blocks,
        "reason": verdict.reason,
        "checks": [_check(check, max_details) for check in verdict.checks],
        "reports": [_report(source) for source in verdict.sources],
        "warnings": list(verdict.warnings),
        "measurements": {
            "numbers": dict(verdict.measurements.numbers),
            "keys": sorted(verdict.measurements.keys)[:_MAX_KEYS],
        },
    }


def _check(check: Check, max_details: int | None) -> dict[str, Any]:
    value = {
        "name": check.name,
        "outcome": check.outcome.value,
        "reason": check.reason,
        "measured": check.measured,
        "limit": check.limit,
        "hint": check.hint,
        "details": list(check.details[:max_details]),
    }
    return {key: content for key, content in value.items() if content}


def _report(source: JudgedReport) -> dict[str, Any]:
    value = {
        "path": source.path,
        "format": source.format,
        "digest": source.digest,
        "tool": str(source.tool),
        "database": source.tool.database.isoformat() if source.tool.database else "",
        "created": source.created.isoformat() if source.created else "",
    }
    return {key: content for key, content in value.items() if content}


def _test_result(verdicts: Verdicts) -> dict[str, Any]:
    by_outcome = {
        "passedTests": (Outcome.PASS,),
        "warnedTests": (Outcome.WAIVED,),
        "failedTests": (Outcome.FAIL, Outcome.ERROR, Outcome.INCOMPLETE),
    }
    result: dict[str, Any] = {
        "result": _RESULTS[verdicts.outcome],
        "configuration": [*_configuration(verdicts)],
    }
    for key, outcomes in by_outcome.items():
        result[key] = [verdict.gate for verdict in verdicts if verdict.outcome in outcomes]
    undecided = [
        verdict.gate for verdict in verdicts if verdict.outcome.undecided and verdict.advisory
    ]
    result["warnedTests"] += undecided
    result["failedTests"] = [name for name in result["failedTests"] if name not in undecided]
    if result["result"] == "PASSED" and result["warnedTests"]:
        result["result"] = "WARNED"
    return result


def _configuration(verdicts: Verdicts) -> Iterator[dict[str, Any]]:
    for verdict in verdicts:
        for source in verdict.sources:
            if source.digest:
                algorithm, _, value = source.digest.partition(":")
                yield {"name": source.path, "digest": {algorithm: value}}


def _scan(reports: Sequence[Report], at: datetime) -> Predicate:
    """All scans of one image as one predicate, with the time of the oldest.

    Source: in-toto attestation framework, predicate vulns v0.1.
    """
    scanned = min((report.created for report in reports if report.created), default=at).isoformat()
    tool = reports[0].tool
    scanner: dict[str, Any] = {
        "uri": f"pkg:generic/{tool.name.lower().replace(' ', '-')}",
        "version": tool.version,
        "db": {"lastUpdate": tool.database.isoformat()} if tool.database else {},
        "result": [_vulnerability(vulnerability) for vulnerability in _vulnerabilities_of(reports)],
    }
    metadata = {"scanStartedOn": scanned, "scanFinishedOn": scanned}
    return Predicate(VULNERABILITIES, {"scanner": scanner, "metadata": metadata})


def _vulnerabilities_of(reports: Sequence[Report]) -> Iterator[Vulnerability]:
    for report in reports:
        if isinstance(report.content, Vulnerabilities):
            yield from report.content.vulnerabilities


def _vulnerability(vulnerability: Vulnerability) -> dict[str, Any]:
    scores = [{"method": "severity", "score": str(vulnerability.severity)}]
    scores += (
        [{"method": "cvss", "score": f"{vulnerability.score:g}"}] if vulnerability.score else []
    )
    facts = {
        "package": vulnerability.package,
        "version": vulnerability.version,
        "purl": vulnerability.purl,
        "fixed": ", ".join(vulnerability.fixed),
    }
    annotation = {key: value for key, value in facts.items() if value}
    return {"id": vulnerability.id, "severity": scores, "annotations": [annotation]}
