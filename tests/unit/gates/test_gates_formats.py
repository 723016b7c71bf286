"""What each format says, told in values."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from gate_samples import (
    ALL,
    CLOVER,
    CLOVER_ISTANBUL,
    COBERTURA,
    COVERAGE_PY,
    CYCLONEDX,
    DIGEST,
    ESLINT,
    GO,
    GRYPE,
    ISTANBUL,
    ISTANBUL_SUMMARY,
    JACOCO,
    JUNIT,
    LCOV,
    NPM,
    NPM_REFUSED,
    OPENVEX,
    OSV,
    PIP_AUDIT,
    SARIF,
    SPDX,
    SPDX3,
    TRIVY,
    parsed,
)

from shipline.gates.reports import (
    REPORT_FORMATS,
    Component,
    Coverage,
    FileCoverage,
    FindingLevel,
    Findings,
    LineSet,
    Ratio,
    Report,
    ReportError,
    Sbom,
    Severity,
    TestResults,
    Vex,
    Vulnerabilities,
)

NOON = datetime(2026, 1, 1, 10, tzinfo=UTC)


def coverage(report: Report) -> Coverage:
    assert isinstance(report.content, Coverage)
    return report.content


@pytest.mark.parametrize("format", REPORT_FORMATS)
def test_every_format_is_told_by_its_content(format: str) -> None:
    kept = {"spdx3": "spdx", "in-toto": "spdx"}
    assert parsed(ALL[format]).format == kept.get(format, format)
    assert parsed(ALL[format], format) == parsed(ALL[format])


def test_cobertura_joins_the_classes_of_a_file_and_ignores_methods() -> None:
    report = parsed(COBERTURA)
    one = coverage(report).files["app/a.py"]
    assert one == FileCoverage(LineSet([1, 2, 3]), LineSet([9]), Ratio(1, 2))
    assert coverage(report).roots == ("/build/src",)
    assert report.created == datetime(2025, 6, 15, 15, 6, 40, tzinfo=UTC)


def test_cobertura_takes_the_lines_of_methods_where_there_are_no_others() -> None:
    lean = COBERTURA.replace(b'<lines><line number="1" hits="1"/>', b"<lines>").split(b"<class ")
    only = b"<class ".join(lean[:2]).partition(b"</method></methods>")
    document = only[0] + b"</method></methods></class></classes></package></packages></coverage>"
    assert coverage(parsed(document)).files["app/a.py"].covered == LineSet([1])


def test_jacoco_counts_a_line_with_one_instruction_as_covered() -> None:
    one = coverage(parsed(JACOCO)).files["com/acme/A.java"]
    assert one == FileCoverage(LineSet([3]), LineSet([4]), Ratio(1, 2))


def test_clover_leaves_lines_of_methods_out() -> None:
    one = coverage(parsed(CLOVER)).files["/srv/src/a.php"]
    assert one == FileCoverage(LineSet([4, 6]), LineSet([5]), Ratio(1, 2))


def test_clover_of_istanbul_has_its_branches_in_the_metrics() -> None:
    found = coverage(parsed(CLOVER_ISTANBUL))
    assert (found.lines, found.branches) == (Ratio(2, 3), Ratio(1, 6))
    with pytest.raises(ReportError, match="7 of 6 conditionals"):
        parsed(
            CLOVER_ISTANBUL.replace(b'"6" coveredconditionals="1"', b'"6" coveredconditionals="7"')
        )


def test_lcov_counts_lines_and_branches() -> None:
    one = coverage(parsed(LCOV)).files["src/a.js"]
    assert one == FileCoverage(LineSet([1]), LineSet([2]), Ratio(1, 2))


def test_go_counts_statements_once_and_a_block_that_ran_anywhere_ran() -> None:
    found = coverage(parsed(GO))
    assert found.lines == Ratio(5, 10)
    assert found.files["example.com/m/a.go"].covered == LineSet([3, 4, 5, 7, 8])


def test_istanbul_counts_a_line_by_its_statements() -> None:
    one = coverage(parsed(ISTANBUL)).files["/repo/src/a.js"]
    assert one == FileCoverage(LineSet([1]), LineSet([2]), Ratio(1, 2))


def test_istanbul_summary_does_not_count_the_total_twice() -> None:
    found = coverage(parsed(ISTANBUL_SUMMARY))
    assert (found.lines, found.branches) == (Ratio(9, 10), Ratio(2, 4))
    alone = coverage(parsed({"total": ISTANBUL_SUMMARY["total"]}))
    assert alone.lines == Ratio(9, 10)


def test_coverage_py_has_lines_branches_and_time() -> None:
    report = parsed(COVERAGE_PY)
    one = coverage(report).files["app/a.py"]
    assert one == FileCoverage(LineSet([1, 3]), LineSet([2]), Ratio(1, 2))
    assert str(report.tool) == "coverage.py 7.6.1"
    assert report.created == datetime(2026, 1, 1, 10, 0, 0, 500000).astimezone(UTC)


def test_reports_of_one_file_join_to_the_lines_that_ran_in_either() -> None:
    one = FileCoverage(LineSet([1]), LineSet([2, 3]), Ratio(1, 4))
    other = FileCoverage(LineSet([2]), LineSet([1, 3]), Ratio(2, 4))
    assert one | other == FileCoverage(LineSet([1, 2]), LineSet([3]), Ratio(2, 4))


def test_junit_counts_nested_suites_and_flaky_tests() -> None:
    report = parsed(JUNIT)
    assert report.content == TestResults(2, 1, 1, 2, 1, 1000.6, ("a.bad", "a.crash"), ("a.flaky",))
    assert report.created == NOON


def test_junit_of_node_leaves_out_what_is_still_to_be_done() -> None:
    todo = '<skipped type="todo" message="true"/><failure type="testCodeFailure">1 == 2</failure>'
    cases = f'<testcase name="a" classname="test"/><testcase name="b">{todo}</testcase>'
    suite = f'<testsuite name="s" tests="2" failures="1" skipped="1">{cases}</testsuite>'
    found = parsed(f"<testsuites>{cases}{suite}</testsuites>".encode()).content
    assert isinstance(found, TestResults)
    assert (found.passed, found.failed, found.errors, found.skipped) == (2, 0, 0, 2)
    skipped = '<testcase name="c"><skipped/><failure/></testcase>'
    other = parsed(f"<testsuites>{skipped}</testsuites>".encode()).content
    assert isinstance(other, TestResults) and other.failed == 1


def test_npm_audit_tells_why_the_registry_did_not_answer() -> None:
    document = {"message": "connect ECONNREFUSED", "error": {"summary": "", "detail": ""}}
    with pytest.raises(ReportError, match="npm audit failed: connect ECONNREFUSED"):
        parsed(json.dumps(document).encode(), "npm-audit")


def test_junit_believes_a_suite_that_claims_more_failures() -> None:
    raw = b'<testsuite errors="2" failures="1"><testcase name="a"/></testsuite>'
    found = parsed(raw).content
    assert isinstance(found, TestResults)
    assert (found.passed, found.failed, found.errors) == (1, 1, 2)


@pytest.mark.parametrize(
    ("inside", "failed", "errors"),
    [
        ('<error message="setup"/><testcase name="a"/>', 0, 1),
        ('<testcase name="a"/><testsuite><failure/></testsuite>', 1, 0),
        ('<testcase name="a"/><testcase name="b" status="failed"/>', 1, 0),
        ('<testcase name="a"/><testcase name="b" status="run" result="Error"/>', 1, 0),
    ],
)
def test_junit_believes_a_failure_that_no_element_of_a_case_tells(
    inside: str, failed: int, errors: int
) -> None:
    found = parsed(f"<testsuite>{inside}</testsuite>".encode()).content
    assert isinstance(found, TestResults)
    assert (found.passed, found.failed, found.errors) == (1, failed, errors)


def test_eslint_has_levels_suppressions_and_what_no_rule_found() -> None:
    content = parsed(ESLINT).content
    assert isinstance(content, Findings)
    assert [
        (one.rule, one.level, one.path, one.line, one.suppressed) for one in content.findings
    ] == [
        ("no-unused-vars", FindingLevel.ERROR, "/repo/src/a.js", 3, False),
        ("no-console", FindingLevel.WARNING, "/repo/src/a.js", 4, False),
        ("no-eval", FindingLevel.ERROR, "/repo/src/a.js", 9, True),
    ]
    broken = {"ruleId": None, "fatal": True, "severity": 2, "message": "Unexpected token"}
    content = parsed([{"filePath": "a.js", "messages": [broken]}]).content
    assert isinstance(content, Findings)
    assert [(one.rule, one.line) for one in content.findings] == [("fatal", 0)]


@pytest.mark.parametrize("key", ["errorCount", "warningCount"])
def test_eslint_that_counts_more_than_it_lists_is_a_gap(key: str) -> None:
    report = parsed([{"filePath": "a.js", "messages": [], key: 3}], "eslint")
    assert len(report.gaps) == 1 and "counts 3" in report.gaps[0] and "lists 0" in report.gaps[0]


def test_eslint_that_looked_at_no_file_is_an_error() -> None:
    with pytest.raises(ReportError, match="no files were linted"):
        parsed(b"[]", "eslint")
    with pytest.raises(ReportError, match="no messages"):
        parsed([{"filePath": "a.js"}])
    with pytest.raises(ReportError, match="not an ESLint severity"):
        parsed([{"filePath": "a.js", "messages": [{"severity": 7, "message": "?"}]}])


def test_junit_believes_the_whole_that_claims_more_failures_than_its_suites() -> None:
    suite = '<testsuite name="s"><testcase name="a"/></testsuite>'
    found = parsed(f'<testsuites failures="2" errors="1">{suite}</testsuites>'.encode()).content
    assert isinstance(found, TestResults)
    assert (found.passed, found.failed, found.errors) == (1, 2, 1)


@pytest.mark.parametrize("counts", [{"total": 3}, {"critical": 2, "info": 1}])
def test_npm_audit_that_counts_more_than_it_lists_is_an_error(counts: dict[str, int]) -> None:
    metadata = {"vulnerabilities": counts, "dependencies": {"total": 12}}
    with pytest.raises(ReportError, match="counts more vulnerable packages"):
        parsed({**NPM, "metadata": metadata})


def test_sarif_that_keeps_results_elsewhere_is_a_gap() -> None:
    run = {"tool": {"driver": {"name": "a"}}, "results": []}
    reference = {"externalPropertyFileReferences": {"results": [{"location": {"uri": "r.json"}}]}}
    for document in (
        {"version": "2.1.0", "runs": [{**run, **reference}]},
        {"version": "2.1.0", "runs": [run], "inlineExternalProperties": [{"results": [{}]}]},
    ):
        assert "external" in parsed(document).gaps[0]


def test_grype_tells_what_its_own_rules_left_out() -> None:
    assert parsed({**GRYPE, "ignoredMatches": [{}]}).warnings == (
        "1 match ignored by Grype's own rules",
    )


def test_sarif_resolves_levels_severities_and_suppressions() -> None:
    report = parsed(SARIF)
    assert isinstance(report.content, Findings)
    first, second, third, fourth = report.content.findings
    assert (first.path, first.line, first.level) == ("src/a b.py", 7, FindingLevel.ERROR)
    assert first.severity is Severity.HIGH
    assert (second.rule, second.level, second.severity) == (
        "R2",
        FindingLevel.NOTE,
        Severity.UNKNOWN,
    )
    assert (third.suppressed, fourth.suppressed, fourth.state) == (True, False, "unchanged")
    assert report.subject.revision == "a" * 40


def test_sarif_without_results_or_success_is_a_gap() -> None:
    run = {"tool": {"driver": {"name": "lint"}}}
    assert parsed({"version": "2.1.0", "runs": []}).gaps
    assert "no results" in parsed({"version": "2.1.0", "runs": [run]}).gaps[0]
    assert parsed({"version": "2.1.0", "runs": [{**run, "results": []}]}).gaps == ()
    note = {"level": "error", "message": {"text": "disk full"}}
    failed = {"executionSuccessful": False, "toolExecutionNotifications": [note]}
    document = {"version": "2.1.0", "runs": [{**run, "results": [], "invocations": [failed]}]}
    assert "disk full" in parsed(document).gaps[0]


@pytest.mark.parametrize("kind", ["toolExecutionNotifications", "toolConfigurationNotifications"])
def test_sarif_whose_tool_notes_an_error_of_its_own_is_a_gap(kind: str) -> None:
    def gaps(level: str) -> tuple[str, ...]:
        note = {"level": level, "message": {"text": "a.py was not analysed"}}
        run = {"tool": {"driver": {"name": "lint"}}, "results": []}
        invocation = {"executionSuccessful": True, kind: [note]}
        return parsed({"version": "2.1.0", "runs": [{**run, "invocations": [invocation]}]}).gaps

    assert gaps("error") == ("the tool reports that it met an error: a.py was not analysed",)
    assert gaps("warning") == ()


def test_trivy_knows_image_platform_target_and_end_of_life() -> None:
    report = parsed(TRIVY)
    assert isinstance(report.content, Vulnerabilities)
    (one,) = report.content.vulnerabilities
    assert (one.path, one.fixed) == ("registry.example/app (debian 9)", ("2.25", "2.26"))
    assert (one.severity, one.score) == (Severity.CRITICAL, 9.8)
    assert report.subject.platform == "linux/arm64" and DIGEST in report.subject.digests
    assert report.content.packages_scanned == 2 and "no more security updates" in report.warnings[0]
    with pytest.raises(ReportError, match="schema version"):
        parsed({**TRIVY, "SchemaVersion": 1})


def test_grype_knows_exploitation_fix_date_and_database() -> None:
    report = parsed(GRYPE)
    assert isinstance(report.content, Vulnerabilities)
    (one,) = report.content.vulnerabilities
    assert (one.exploited, one.epss, one.aliases) == (True, 0.93, ("CVE-2021-1",))
    assert one.fix_date == datetime(2025, 11, 1, tzinfo=UTC)
    assert report.tool.database == datetime(2025, 12, 31, 10, tzinfo=UTC)
    assert DIGEST in report.subject.digests


def test_osv_counts_a_group_once_with_all_its_names() -> None:
    found = parsed(OSV).content
    assert isinstance(found, Vulnerabilities)
    (one,) = found.vulnerabilities
    assert (one.names, one.fixed) == (("GO-1", "GHSA-1", "CVE-1"), ("0.2",))
    assert (one.severity, one.path) == (Severity.HIGH, "/src/go.mod")


def test_npm_audit_counts_advisories_not_the_packages_that_need_them() -> None:
    found = parsed(NPM).content
    assert isinstance(found, Vulnerabilities)
    assert [one.id for one in found.vulnerabilities] == ["GHSA-p6mc"]
    assert found.packages_scanned == 12


@pytest.mark.parametrize(
    "document", [NPM_REFUSED, {"error": {"code": "ENOLOCK", "summary": "no lockfile"}}]
)
def test_npm_audit_that_failed_is_an_error(document: dict[str, object]) -> None:
    with pytest.raises(ReportError, match="npm audit failed"):
        parsed(document)


def test_pip_audit_that_skipped_packages_has_gaps() -> None:
    report = parsed(PIP_AUDIT)
    assert isinstance(report.content, Vulnerabilities)
    assert report.content.vulnerabilities[0].names == ("PYSEC-1", "CVE-2")
    assert "1 package was not audited (own): could not be audited" in report.gaps[0]
    assert parsed(json.dumps(PIP_AUDIT["dependencies"]).encode()).content == report.content


def test_bills_of_material_count_packages_and_know_licences() -> None:
    report = parsed(CYCLONEDX)
    assert report.content == Sbom(
        (
            Component("@acme/a", "1", "pkg:npm/%40acme/a@1", ("MIT",)),
            Component("b", licenses=("X",)),
        )
    )
    assert report.subject.digests == {DIGEST}
    report = parsed(SPDX)
    assert report.content == Sbom((Component("a", "1", "pkg:npm/a@1", ("MIT",)),))
    assert report.subject.digests == {DIGEST} and report.created == NOON
    assert parsed(SPDX3).content == Sbom((Component("a", "1", licenses=("MIT",)),))
    partial = {**CYCLONEDX, "compositions": [{"aggregate": "incomplete"}]}
    assert parsed(partial).gaps
    info = {**SPDX["creationInfo"], "comment": "incomplete: a: it is damaged"}
    assert parsed({**SPDX, "creationInfo": info}).gaps == ("incomplete: a: it is damaged",)


@pytest.mark.parametrize(
    ("kind", "predicate"),
    [("https://spdx.dev/Document", SPDX), ("https://cyclonedx.org/bom/v1.6", CYCLONEDX)],
)
def test_a_statement_is_read_as_what_it_states(kind: str, predicate: dict[str, Any]) -> None:
    statement = {"_type": "s", "predicateType": kind, "subject": [], "predicate": predicate}
    assert parsed(statement).content == parsed(predicate).content
    for wrong in ({**statement, "predicateType": "https://slsa.dev/provenance/v1"},
                  {**statement, "predicate": {}}):  # fmt: skip
        with pytest.raises(ReportError):
            parsed(wrong)


def test_openvex_needs_a_justification() -> None:
    found = parsed(OPENVEX).content
    assert isinstance(found, Vex)
    assert found.statements[0].products == ("pkg:npm/lodash",)
    statement = {**OPENVEX["statements"][0], "justification": ""}
    with pytest.raises(ReportError, match="without a justification"):
        parsed({**OPENVEX, "statements": [statement]})


def test_a_named_format_that_is_another_is_an_error() -> None:
    with pytest.raises(ReportError):
        parsed(JUNIT, "sarif")
    with pytest.raises(ReportError):
        parsed(ALL["trivy"], "cobertura")
