"""Admission by signed vulnerability scans.

Reads cosign's `https://cosign.sigstore.dev/attestation/vuln/v1`, whose `scanner.result` is the
report of the scanner (Trivy, Grype, OSV and others), and in-toto's
`https://in-toto.io/attestation/vulns/v0.1` and `v0.2`, whose result is a list of its own format.
"""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from shipline.content import fetch_document
from shipline.errors import ContentError
from shipline.gates.reports import Severity, Vulnerabilities, Vulnerability, parse_report
from shipline.oci import Descriptor, Digest, Index
from shipline.server.admission.evidence import StoredEvidence
from shipline.server.admission.protocol import ScanFinding, TrustedScan
from shipline.server.admission.section import VulnerabilityRule, matches_any
from shipline.supply import (
    ClaimKind,
    PublicKey,
    VerifiedAttestation,
    attachment_tag,
    examine_attestations,
    stated_time,
)
from shipline.trust import StatementCheck

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
        raise ContentError(
            "the statement is text, not the result of a scanner", code="scan-statement"
        )
    scanner = predicate.get("scanner")
    result = scanner.get("result") if isinstance(scanner, dict) else None
    if predicate_type == COSIGN_VULN:
        vulnerabilities = _cosign_report(result)
    elif predicate_type in IN_TOTO_VULNS:
        vulnerabilities = _in_toto_results(result)
    else:
        raise ContentError(f"{predicate_type} is not a type of scan results", code="scan-statement")
    return Scan(vulnerabilities, stated_time(predicate))


def _cosign_report(result: object) -> tuple[Vulnerability, ...]:
    if not isinstance(result, dict):
        raise ContentError("the statement has no scanner report", code="scan-statement")
    content = parse_report(io.BytesIO(json.dumps(result).encode())).content
    if not isinstance(content, Vulnerabilities):
        raise ContentError(
            "the report in the statement is not about vulnerabilities", code="scan-statement"
        )
    if content.packages_scanned == 0 and not content.vulnerabilities:
        raise ContentError("the scanner scanned nothing", code="scan-statement")
    return content.vulnerabilities


def _in_toto_results(result: object) -> tuple[Vulnerability, ...]:
    if not isinstance(result, list) or not all(isinstance(entry, dict) for entry in result):
        raise ContentError("the statement has no list of vulnerabilities", code="scan-statement")
    return tuple(map(_vulnerability, result))


def _vulnerability(entry: Mapping[str, Any]) -> Vulnerability:
    described = entry.get("vulnerability")
    nested: Mapping[str, Any] = described if isinstance(described, dict) else {}
    identifier = entry.get("id") or nested.get("id")
    if not isinstance(identifier, str):
        raise ContentError("a vulnerability in the statement has no id", code="scan-statement")
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


_KEPT = 10_000  # verdicts
_SHOWN = 5  # vulnerabilities in a message
_NO_SCAN = "no scan result is attached: shipline attest --type vuln --predicate REPORT"


@dataclass(frozen=True, slots=True)
class LoadedRule:
    """A rule with its keys loaded."""

    section: VulnerabilityRule
    keys: tuple[PublicKey, ...]


class Scans:
    """Evaluates the vulnerability rules. Scans are cached by everything attached to the image, so
    that a new one takes effect at once.
    """

    def __init__(self, rules: Sequence[LoadedRule], clock: Callable[[], float]) -> None:
        self._rules = tuple(rules)
        self._clock = clock
        self._lock = threading.Lock()
        self._known: dict[tuple[object, ...], tuple[Scan | None, str]] = {}
        self._statements = StatementCheck()

    def covers(self, name: str) -> bool:
        return any(matches_any(rule.section.repositories, name) for rule in self._rules)

    def refusal(self, source: StoredEvidence, name: str, target: Descriptor) -> str:
        """Why the image may not be pulled and what to do, empty if it may."""
        if self._statements.has(source, target):
            return ""
        for rule in self._rules:
            if matches_any(rule.section.repositories, name):
                reason = self._refusal(rule, source, target)
                if reason:
                    return reason
        return ""

    def newest(self, source: StoredEvidence, name: str, target: Descriptor) -> TrustedScan | None:
        """The newest scan of the image itself that counts for a rule; None if there is none."""
        rules = (rule for rule in self._rules if matches_any(rule.section.repositories, name))
        found = (self._scan(rule, source, target)[0] for rule in rules)
        scan = next(filter(None, found), None)
        if scan is None:
            return None
        worst = sorted(scan.vulnerabilities, key=lambda one: (-one.severity, one.id))
        findings = (
            ScanFinding(one.id, str(one.severity), one.package, one.version, ", ".join(one.fixed))
            for one in worst
        )
        return TrustedScan(tuple(findings), scan.finished)

    def _refusal(self, rule: LoadedRule, source: StoredEvidence, target: Descriptor) -> str:
        """Considers the newest scan of the image and of each index that lists it: none may be bad,
        and the most recent must be recent enough. An index without scans is judged by those of its
        images.
        """
        results = [self._scan(rule, source, image) for image in (target, *source.parents(target))]
        scans = [scan for scan, _ in results if scan is not None]
        if scans:
            return self._rule_refusal(rule.section, scans)
        images, own = _images(source, target), results[0][1]
        if not images or own != _NO_SCAN:
            return own
        for image in images:
            scan, problem = self._scan(rule, source, image)
            reason = problem if scan is None else self._rule_refusal(rule.section, [scan])
            if reason:
                return f"{image.platform}: {reason}"
        return ""

    def _scan(
        self, rule: LoadedRule, source: StoredEvidence, target: Descriptor
    ) -> tuple[Scan | None, str]:
        """The newest scan signed by one of the keys, or why there is none."""
        key = (rule, target.digest, *_attached(source, target))
        with self._lock:
            known = self._known.get(key)
        if known is None:
            known = _newest_scan(source, target, rule.keys)
            with self._lock:
                while len(self._known) >= _KEPT:
                    del self._known[next(iter(self._known))]
                self._known[key] = known
        return known

    def _rule_refusal(self, rule: VulnerabilityRule, scans: Sequence[Scan]) -> str:
        """Why the scans break the rule. Findings add up: a clean scan of an index does not cancel
        those in its image.
        """
        now = self._clock()
        if rule.max_age is not None:
            finished = max((scan.finished for scan in scans if scan.finished), default=None)
            if finished is None:
                return "its scan result has no end time"
            if now - finished > rule.max_age.seconds:
                return f"its last scan is older than {rule.max_age}; scan it again"
        today = datetime.fromtimestamp(now, UTC)
        allowed = {accepted.id for accepted in rule.allow if not accepted.until.over(today)}
        least = Severity.parse(rule.refuse)
        bad = [
            vulnerability
            for vulnerability in dict.fromkeys(
                vulnerability for scan in scans for vulnerability in scan.vulnerabilities
            )
            if (vulnerability.severity >= least or vulnerability.severity is Severity.UNKNOWN)
            and (vulnerability.fixed or not rule.fixable_only)
            and not allowed.intersection(vulnerability.names)
        ]
        return _describe(bad, rule.refuse) if bad else ""


def _describe(bad: Sequence[Vulnerability], least: str) -> str:
    worst = sorted(bad, key=lambda vulnerability: (-vulnerability.severity, vulnerability.id))
    names = ", ".join(
        f"{vulnerability.id} ({vulnerability.severity})" for vulnerability in worst[:_SHOWN]
    )
    more = f" and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
    return (
        f"{len(bad)} vulnerabilities of severity {least} or above: {names}{more}; update the image "
        "and attach a new scan, or accept them under registry.policy.vulnerabilities.allow"
    )


def _newest_scan(
    source: StoredEvidence, target: Descriptor, keys: tuple[PublicKey, ...]
) -> tuple[Scan | None, str]:
    proven: list[VerifiedAttestation] = []
    rejected = 0
    for kind in SCAN_TYPES:
        examined = examine_attestations(source, target, keys, kind)
        proven += examined.proven
        rejected += len(examined.rejected)
    problem = (
        f"{rejected} scan results are attached, but none is signed by a trusted key"
        if rejected
        else _NO_SCAN
    )
    scans: list[Scan] = []
    for attestation in proven:
        try:
            scans.append(
                read_scan(attestation.statement.predicate_type, attestation.statement.predicate)
            )
        except ContentError as error:
            problem = f"its scan result is unusable: {error.message}"
    if not scans:
        return None, problem
    return max(scans, key=lambda scan: scan.finished or 0.0), ""


def _attached(source: StoredEvidence, target: Descriptor) -> Iterator[Digest]:
    """Everything attached to an image, by digest."""
    yield from (referrer.digest for referrer in source.referrers(target))
    manifest = source.find(attachment_tag(target.digest, ClaimKind.ATTESTATION))
    if manifest is not None:
        yield manifest.digest


def _images(source: StoredEvidence, target: Descriptor) -> Sequence[Descriptor]:
    parsed = fetch_document(source, target)
    if not isinstance(parsed, Index):
        return ()
    return [
        manifest
        for manifest in parsed.manifests
        if manifest.platform and manifest.platform.os != "unknown"
    ]
