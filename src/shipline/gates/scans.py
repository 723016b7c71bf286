"""Scan results that are attached to images: the predicates of vulnerability statements.

Two kinds are read: cosign's `https://cosign.sigstore.dev/attestation/vuln/v1`, whose
`scanner.result` is the report of the scanner (Trivy, Grype, OSV and others), and in-toto's
`https://in-toto.io/attestation/vulns/v0.1` and `v0.2`, whose result is a list of its own.
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
    """What a scanner found; `finished` in Unix time, None where it is not stated."""

    found: tuple[Vulnerability, ...]
    finished: float | None


def read_scan(predicate_type: str, predicate: Mapping[str, Any] | str) -> Scan:
    """Raises ContentError for a predicate that is no scan result: never taken for a clean one."""
    if isinstance(predicate, str):
        raise ContentError("the statement is text, not the result of a scanner")
    scanner = predicate.get("scanner")
    result = scanner.get("result") if isinstance(scanner, dict) else None
    if predicate_type == COSIGN_VULN:
        found = _report(result)
    elif predicate_type in IN_TOTO_VULNS:
        found = _listed(result)
    else:
        raise ContentError(f"{predicate_type} is no type of scan results")
    return Scan(found, stated_time(predicate))


def _report(result: object) -> tuple[Vulnerability, ...]:
    if not isinstance(result, dict):
        raise ContentError("the statement holds no report of a scanner")
    content = parse_report(io.BytesIO(json.dumps(result).encode())).content
    if not isinstance(content, Vulnerabilities):
        raise ContentError("the report in the statement is not about vulnerabilities")
    if content.looked_at == 0 and not content.found:
        raise ContentError("the scanner looked at nothing")
    return content.found


def _listed(result: object) -> tuple[Vulnerability, ...]:
    if not isinstance(result, list) or not all(isinstance(one, dict) for one in result):
        raise ContentError("the statement holds no list of vulnerabilities")
    return tuple(map(_vulnerability, result))


def _vulnerability(entry: Mapping[str, Any]) -> Vulnerability:
    named = entry.get("vulnerability")
    nested: Mapping[str, Any] = named if isinstance(named, dict) else {}
    identifier = entry.get("id") or nested.get("id")
    if not isinstance(identifier, str):
        raise ContentError("a vulnerability in the statement has no id")
    said = entry.get("severity") or nested.get("severity") or ()
    worst = max(map(_severity, said if isinstance(said, list) else [said]), default=Severity(0))
    notes = entry.get("annotations")
    objects = [one for one in notes if isinstance(one, dict)] if isinstance(notes, list) else []
    facts = {key: value for one in objects for key, value in one.items()}
    fixed = facts.get("fixed") or facts.get("fixedVersion") or ""
    return Vulnerability(
        identifier,
        str(facts.get("package", "")),
        str(facts.get("version", "")),
        worst,
        fixed=(str(fixed),) if fixed else (),
    )


def _severity(said: object) -> Severity:
    """A word or a CVSS score; what cannot be read is UNKNOWN, which is never taken for harmless."""
    score = said.get("score") if isinstance(said, dict) else said
    try:
        return Severity.scored(float(str(score)))
    except ValueError:
        return Severity.named(str(score))
