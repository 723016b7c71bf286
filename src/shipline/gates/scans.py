"""Scan results attached to images: the predicates of vulnerability attestations.

Reads cosign's `https://cosign.sigstore.dev/attestation/vuln/v1`, whose `scanner.result` is the
report of the scanner (Trivy, Grype, OSV and others), and in-toto's
`https://in-toto.io/attestation/vulns/v0.1` and `v0.2`, whose result is a list of its own format.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shipline.errors import ContentError
from shipline.gates.reports import Severity, Vulnerabilities, Vulnerability, parse_report
from shipline.supply import stated_time

COSIGN_VULN = "https://cosign.sigstore.dev/attestation/vuln/v1"
IN_TOTO_VULNS = (
    "https://in-toto.io/attestation/vulns/v0.1",
    "https://in-toto.io/attestation/vulns/v0.2",
)
SCAN_TYPES = (COSIGN_VULN, *IN_TOTO_VULNS)


@dataclass(frozen=True, slots=True)
class Scan:
    """The result of a scan; `finished` in Unix time, None if it is not stated."""

    vulnerabilities: tuple[Vulnerability, ...]
    finished: float | None


def read_scan(predicate_type: str, predicate: Mapping[str, Any] | str) -> Scan:
    """Raises ContentError for a predicate that is not a scan result, which is never clean."""
    if isinstance(predicate, str):
        raise ContentError("the statement is text, not the result of a scanner")
    scanner = predicate.get("scanner")
    result = scanner.get("result") if isinstance(scanner, dict) else None
    if predicate_type == COSIGN_VULN:
        vulnerabilities = _cosign_report(result)
    elif predicate_type in IN_TOTO_VULNS:
        vulnerabilities = _in_toto_results(result)
    else:
        raise ContentError(f"{predicate_type} is not a type of scan results")
    return Scan(vulnerabilities, stated_time(predicate))


def _cosign_report(result: object) -> tuple[Vulnerability, ...]:
    if not isinstance(result, dict):
        raise ContentError("the statement has no scanner report")
    content = parse_report(io.BytesIO(json.dumps(result).encode())).content
    if not isinstance(content, Vulnerabilities):
        raise ContentError("the report in the statement is not about vulnerabilities")
    if content.packages_scanned == 0 and not content.vulnerabilities:
        raise ContentError("the scanner scanned nothing")
    return content.vulnerabilities


def _in_toto_results(result: object) -> tuple[Vulnerability, ...]:
    if not isinstance(result, list) or not all(isinstance(entry, dict) for entry in result):
        raise ContentError("the statement has no list of vulnerabilities")
    return tuple(map(_vulnerability, result))


def _vulnerability(entry: Mapping[str, Any]) -> Vulnerability:
    described = entry.get("vulnerability")
    nested: Mapping[str, Any] = described if isinstance(described, dict) else {}
    identifier = entry.get("id") or nested.get("id")
    if not isinstance(identifier, str):
        raise ContentError("a vulnerability in the statement has no id")
    stated = entry.get("severity") or nested.get("severity") or ()
    worst = max(
        map(_severity, stated if isinstance(stated, list) else [stated]), default=Severity(0)
    )
    notes = entry.get("annotations")
    objects = [note for note in notes if isinstance(note, dict)] if isinstance(notes, list) else []
    facts = {key: value for note in objects for key, value in note.items()}
    fixed = facts.get("fixed") or facts.get("fixedVersion") or ""
    return Vulnerability(
        identifier,
        str(facts.get("package", "")),
        str(facts.get("version", "")),
        worst,
        fixed=(str(fixed),) if fixed else (),
    )


def _severity(stated: object) -> Severity:
    """A word or a CVSS score; anything else is UNKNOWN, which never counts as harmless."""
    score = stated.get("score") if isinstance(stated, dict) else stated
    try:
        return Severity.scored(float(str(score)))
    except ValueError:
        return Severity.named(str(score))
