"""A document of another tool is never a report: not the one that its keys remind of, not any."""

from __future__ import annotations

import json
from io import BytesIO
from typing import Any

import pytest
from foreign_samples import CLEAN, GITLEAKS, NOTHING, TOOLS
from gate_samples import ALL, GRYPE, NPM, OSV, parsed
from judging import NOW, verdict_of

from shipline.gates import Outcome, ReportFile, VulnerabilitiesGate
from shipline.gates.report_files import read_report
from shipline.gates.reports import (
    REPORT_FORMATS,
    ReportError,
    Severity,
    Vulnerabilities,
    parse_report,
)

READERS = ("", *REPORT_FORMATS)


def refusal(document: Any, format: str = "") -> ReportError:
    with pytest.raises(ReportError) as caught:
        parse_report(BytesIO(json.dumps(document).encode()), format)
    return caught.value


@pytest.mark.parametrize("reader", REPORT_FORMATS)
def test_a_report_is_read_by_the_reader_of_its_format_alone(reader: str) -> None:
    assert parse_report(BytesIO(ALL[reader]), reader).content == parsed(ALL[reader]).content
    for name in {*REPORT_FORMATS} - {reader}:
        with pytest.raises(ReportError):
            parse_report(BytesIO(ALL[name]), reader)


@pytest.mark.parametrize("reader", READERS)
def test_the_json_of_another_tool_is_told_with_the_way_to_what_is_read(reader: str) -> None:
    for tool, (document, way) in TOOLS.items():
        error = refusal(document, reader)
        assert f"the JSON of {tool}" in error.message and way in error.hint


@pytest.mark.parametrize("reader", READERS)
def test_another_tool_that_found_nothing_is_refused_too(reader: str) -> None:
    for tool, document in CLEAN.items():
        assert f"the JSON of {tool}" in refusal(document, reader).message


@pytest.mark.parametrize("reader", READERS)
def test_what_lacks_a_part_of_its_format_is_no_report(reader: str) -> None:
    for document in NOTHING:
        assert refusal(document, reader).hint, document


def test_an_empty_list_names_the_tools_that_write_it() -> None:
    error = refusal([])
    assert "gitleaks" in error.message and "SARIF" in error.hint


def test_no_known_tool_gets_the_list_of_formats() -> None:
    hint = refusal({"x": 1}).hint
    assert all(name in hint for name in REPORT_FORMATS)


def test_a_leak_report_is_no_proof_of_no_vulnerabilities(tmp_path: Any) -> None:
    path = tmp_path / "leaks.json"
    path.write_text(json.dumps(GITLEAKS))
    found = read_report(path, "leaks.json")
    assert isinstance(found, ReportFile)
    verdict = verdict_of(VulnerabilitiesGate(allow_empty=True), found)
    assert verdict.outcome is Outcome.ERROR and "gitleaks" in verdict.reason
    assert "--report-format sarif" in verdict.deciding_check.hint


def test_osv_scanner_that_found_nothing_is_known_by_its_settings() -> None:
    settings = {"licenses": {"summary": False, "allowlist": None}}
    assert parsed({"results": [], "experimental_config": settings}).content == Vulnerabilities(())
    package = {**OSV["results"][0]["packages"][0], "vulnerabilities": [{"summary": "no id"}]}
    refusal({"results": [{**OSV["results"][0], "packages": [package]}]})


def test_osv_results_without_packages_are_an_empty_scan(tmp_path: Any) -> None:
    empty = {"results": [{**OSV["results"][0], "packages": []}]}
    report = ReportFile("osv.json", parsed(empty), written=NOW)
    assert verdict_of(VulnerabilitiesGate(), report).outcome is Outcome.INCOMPLETE
    assert verdict_of(VulnerabilitiesGate(allow_empty=True), report).outcome is Outcome.PASS


def test_grype_is_known_by_its_descriptor() -> None:
    assert parsed({**GRYPE, "matches": []}).content == Vulnerabilities(())
    refusal({**GRYPE, "descriptor": {"name": "other"}})
    refusal({**GRYPE, "matches": [{"vulnerability": {"id": ""}, "artifact": {"name": "a"}}]})


def test_a_package_of_npm_that_leads_to_no_advisory_stands_for_itself() -> None:
    """`via` may name what is not in the report, or go in a circle: neither is a clean package."""
    for via in (["gone"], ["tool"], []):
        tool = {"name": "tool", "severity": "high", "via": via, "fixAvailable": False}
        found = parsed({**NPM, "vulnerabilities": {"tool": tool}}).content
        assert isinstance(found, Vulnerabilities)
        assert [(one.id, one.severity) for one in found.vulnerabilities] == [
            ("npm:tool", Severity.HIGH)
        ]


def test_a_report_of_another_kind_is_told_what_the_gate_reads() -> None:
    verdict = verdict_of(
        VulnerabilitiesGate(), ReportFile("a.sarif", parsed(ALL["sarif"]), written=NOW)
    )
    assert verdict.outcome is Outcome.ERROR
    assert "another kind (sarif)" in verdict.reason and "pip-audit" in verdict.deciding_check.hint
