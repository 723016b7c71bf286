"""Verdicts as statements, and as text that reports cannot break out of."""

from __future__ import annotations

import json

import pytest
from gate_samples import GRYPE, TRIVY
from judging import CONTEXT, NOW, cobertura, verdict_of, waiver

from shipline.errors import ConfigError
from shipline.gates import (
    OUTPUT_FORMATS,
    SUMMARY_TYPE,
    Baseline,
    Check,
    CoverageGate,
    Outcome,
    Verdict,
    Verdicts,
    VulnerabilitiesGate,
    predicates,
    render,
    summary,
)
from shipline.gates.reports import Severity
from shipline.gates.statements import TEST_RESULT, VULNERABILITIES
from shipline.server.admission.vulnerabilities import read_scan
from shipline.values import replace

GOOD = verdict_of(CoverageGate(), cobertura(a=[1]), gate="coverage")
BAD = verdict_of(VulnerabilitiesGate(), TRIVY, gate="vulnerabilities")
WAIVED = verdict_of(VulnerabilitiesGate(), GRYPE, gate="more", waivers=[waiver(gate="more")])


def said(*verdicts: Verdict) -> dict[str, dict[str, object]]:
    """Predicates by their type, after a trip through JSON."""
    found = predicates(Verdicts(verdicts, NOW, "a" * 40))
    return {one.type: json.loads(json.dumps(one.content)) for one in found}


def test_the_test_result_names_gates_by_outcome() -> None:
    result = said(GOOD, BAD, WAIVED)[TEST_RESULT]
    assert result["result"] == "FAILED"
    assert result["passedTests"] == ["coverage"]
    assert result["failedTests"] == ["vulnerabilities"]
    assert result["warnedTests"] == ["more"]
    assert said(GOOD)[TEST_RESULT]["result"] == "PASSED"
    assert said(GOOD, WAIVED)[TEST_RESULT]["result"] == "WARNED"
    doubt = verdict_of(CoverageGate(), gate="lost")
    assert said(doubt)[TEST_RESULT]["result"] == "FAILED"
    assert said(replace(doubt, advisory=True))[TEST_RESULT]["result"] == "WARNED"


def test_a_scan_of_the_image_is_stated_as_the_registry_reads_it() -> None:
    scan = read_scan(VULNERABILITIES, said(BAD)[VULNERABILITIES])
    (one,) = scan.vulnerabilities
    assert (one.id, one.package, one.version) == ("CVE-2024-1", "libc6", "2.24")
    assert one.severity is Severity.CRITICAL and one.fixed == ("2.25, 2.26",)
    assert scan.finished == pytest.approx(1767261600, abs=1)


def test_a_scan_that_proves_nothing_is_not_stated() -> None:
    stale = verdict_of(VulnerabilitiesGate(), TRIVY, context=replace(CONTEXT, built_at=NOW))
    assert stale.outcome is Outcome.FAIL
    assert VULNERABILITIES not in said(stale)
    assert VULNERABILITIES not in said(GOOD)


def test_a_summary_is_a_baseline() -> None:
    content = said(GOOD, BAD)[SUMMARY_TYPE]
    baseline = Baseline.parse(json.dumps({"predicate": content}).encode())
    assert baseline.gates["coverage"] == GOOD.measurements
    assert baseline.gates["vulnerabilities"] == BAD.measurements
    assert baseline.revision == "a" * 40


@pytest.mark.parametrize(
    "raw", [b"", b"[]", b"{}", b'{"gates": 1}', b'{"gates": [{}]}', b"[" * 99999]
)
def test_what_is_no_baseline_is_refused(raw: bytes) -> None:
    with pytest.raises(ConfigError):
        Baseline.parse(raw)


HOSTILE = "x\n::set-output name=a::b\r\n| <script> `rm` ](http://x) \x1b[31m"


@pytest.mark.parametrize("format", OUTPUT_FORMATS)
def test_text_of_a_report_cannot_become_a_command_or_markup(format: str) -> None:
    check = Check("c", Outcome.FAIL, HOSTILE, hint=HOSTILE, details=(HOSTILE,))
    verdicts = Verdicts((Verdict(HOSTILE, "kind", (check,), warnings=(HOSTILE,)),), NOW)
    text = render(verdicts, format)
    assert "\x1b" not in text
    assert not any(line.startswith("::set-output") for line in text.splitlines())
    if format == "markdown":
        assert "<script" not in text and "](http" not in text.replace("\\]", "")
    if format in ("json", "sarif"):
        json.loads(text)


def test_every_outcome_is_shown_with_its_reason() -> None:
    text = render(Verdicts((GOOD, BAD, WAIVED), NOW, warnings=("a warning",)), "text")
    assert "1 of 1 lines ran" in text and "CVE-2024-1 (critical) in libc6 2.24" in text
    assert "waived until 2026-01-31 by team: known" in text and "warning: a warning" in text
    assert text.endswith("The release is refused: 1 fail, 1 waived, 1 pass.")
    assert summary(Verdicts((), NOW))["exitCode"] == 11
