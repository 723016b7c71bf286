"""Verdicts as predicates of in-toto statements, to attach to the digest that was judged."""

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
_STATED = 200  # findings of a check in a statement
_KEPT = 100_000  # keys of findings in a summary


@dataclass(frozen=True, slots=True)
class Predicate:
    """What a statement says: `type` is the predicateType, `content` the predicate."""

    type: str
    content: Mapping[str, Any]


def predicates(verdicts: Verdicts) -> tuple[Predicate, ...]:
    """The summary of all gates, the baseline of later runs too, in-toto's test result, and, where a
    scan of the image was judged, in-toto's list of vulnerabilities.

    Source: in-toto attestation framework, predicates test-result v0.1 and vulns v0.1.
    """
    scans = [report for one in verdicts for report in one.scans]
    told = summary(verdicts, most=_STATED)
    found = [Predicate(SUMMARY_TYPE, told), Predicate(TEST_RESULT, _result(verdicts))]
    return (*found, *([_scan(scans, verdicts.at)] if scans else []))


def summary(verdicts: Verdicts, *, most: int | None = None) -> dict[str, Any]:
    """All that was judged, as JSON: what `shipline gate --json` prints. `most` bounds what is named
    for each check, for what must stay small.
    """
    return {
        "outcome": verdicts.outcome,
        "exitCode": verdicts.exit_code,
        "judgedAt": verdicts.at.isoformat(),
        "revision": verdicts.revision,
        "image": verdicts.image,
        "warnings": list(verdicts.warnings),
        "gates": [_gate(one, most) for one in verdicts],
    }


def _gate(verdict: Verdict, most: int | None) -> dict[str, Any]:
    return {
        "gate": verdict.gate,
        "kind": verdict.kind,
        "outcome": verdict.outcome.value,
        "blocks": verdict.blocks,
        "reason": verdict.reason,
        "checks": [_check(one, most) for one in verdict.checks],
        "reports": [_source(one) for one in verdict.sources],
        "warnings": list(verdict.warnings),
        "measurements": {
            "numbers": dict(verdict.measurements.numbers),
            "keys": sorted(verdict.measurements.keys)[:_KEPT],
        },
    }


def _check(check: Check, most: int | None) -> dict[str, Any]:
    value = {
        "name": check.name,
        "outcome": check.outcome.value,
        "reason": check.reason,
        "measured": check.measured,
        "limit": check.limit,
        "hint": check.hint,
        "details": list(check.details[:most]),
    }
    return {key: one for key, one in value.items() if one}


def _source(source: JudgedReport) -> dict[str, Any]:
    value = {
        "path": source.path,
        "format": source.format,
        "digest": source.digest,
        "tool": str(source.tool),
        "database": source.tool.database.isoformat() if source.tool.database else "",
        "created": source.created.isoformat() if source.created else "",
    }
    return {key: one for key, one in value.items() if one}


def _result(verdicts: Verdicts) -> dict[str, Any]:
    by_outcome = {
        "passedTests": (Outcome.PASS,),
        "warnedTests": (Outcome.WAIVED,),
        "failedTests": (Outcome.FAIL, Outcome.ERROR, Outcome.INCOMPLETE),
    }
    result: dict[str, Any] = {
        "result": _RESULTS[verdicts.outcome],
        "configuration": [*_materials(verdicts)],
    }
    for key, outcomes in by_outcome.items():
        result[key] = [one.gate for one in verdicts if one.outcome in outcomes]
    doubtful = [one.gate for one in verdicts if one.outcome.undecided and one.advisory]
    result["warnedTests"] += doubtful
    result["failedTests"] = [name for name in result["failedTests"] if name not in doubtful]
    if result["result"] == "PASSED" and result["warnedTests"]:
        result["result"] = "WARNED"
    return result


def _materials(verdicts: Verdicts) -> Iterator[dict[str, Any]]:
    for verdict in verdicts:
        for source in verdict.sources:
            if source.digest:
                algorithm, _, value = source.digest.partition(":")
                yield {"name": source.path, "digest": {algorithm: value}}


def _scan(reports: Sequence[Report], at: datetime) -> Predicate:
    """All scans of one image together, as old as the oldest.

    Source: in-toto attestation framework, predicate vulns v0.1.
    """
    when = min((one.created for one in reports if one.created), default=at).isoformat()
    tool = reports[0].tool
    scanner: dict[str, Any] = {
        "uri": f"pkg:generic/{tool.name.lower().replace(' ', '-')}",
        "version": tool.version,
        "db": {"lastUpdate": tool.database.isoformat()} if tool.database else {},
        "result": [_vulnerability(one) for one in _found(reports)],
    }
    metadata = {"scanStartedOn": when, "scanFinishedOn": when}
    return Predicate(VULNERABILITIES, {"scanner": scanner, "metadata": metadata})


def _found(reports: Sequence[Report]) -> Iterator[Vulnerability]:
    for report in reports:
        if isinstance(report.content, Vulnerabilities):
            yield from report.content.found


def _vulnerability(one: Vulnerability) -> dict[str, Any]:
    scores = [{"method": "severity", "score": str(one.severity)}]
    scores += [{"method": "cvss", "score": f"{one.score:g}"}] if one.score else []
    facts = {
        "package": one.package,
        "version": one.version,
        "purl": one.purl,
        "fixed": ", ".join(one.fixed),
    }
    told = {key: value for key, value in facts.items() if value}
    return {"id": one.id, "severity": scores, "annotations": [told]}
