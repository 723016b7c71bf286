"""A report that is missing, stale or about something else is never a pass."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from gate_samples import (
    CLOVER_ISTANBUL,
    COBERTURA,
    COVERAGE_PY,
    DIGEST,
    GRYPE,
    ISTANBUL_SUMMARY,
    JACOCO,
    JUNIT,
    SARIF,
    TRIVY,
)
from judging import CONTEXT, NOW, cobertura, evidence, verdict_of

from shipline.errors import GateRefused, GateUndecided, UsageError
from shipline.gates import (
    CoverageGate,
    FindingsGate,
    GateContext,
    GateEnvironment,
    GatesSection,
    ImageFacts,
    ImageSubject,
    Outcome,
    ReportFile,
    SbomGate,
    TestsGate,
    Verdict,
    Verdicts,
    VulnerabilitiesGate,
    read_reports,
    render,
    run_gates,
)
from shipline.units import Duration
from shipline.values import replace

OTHER = "sha256:" + "9" * 64
CLEAN: dict[str, Any] = {**TRIVY, "Results": [{"Target": "a", "Class": "os-pkgs"}]}


def image(*platforms: str, index: str = DIGEST) -> GateContext:
    """A context whose image has these platforms; the digest of one alone is that of the image."""
    facts = tuple(
        ImageFacts(name, index if len(platforms) == 1 else f"sha256:{place:064}", OTHER, 1, 1)
        for place, name in enumerate(platforms)
    )
    return replace(CONTEXT, image=ImageSubject(index, facts))


def test_no_report_at_all_is_doubt() -> None:
    for rules in (CoverageGate(), TestsGate(), FindingsGate(), VulnerabilitiesGate(), SbomGate()):
        verdict = verdict_of(rules)
        assert verdict.outcome is Outcome.INCOMPLETE and verdict.blocks


def test_a_report_of_another_kind_is_an_error() -> None:
    assert verdict_of(CoverageGate(), JUNIT).outcome is Outcome.ERROR
    assert verdict_of(TestsGate(), cobertura(a=[1])).outcome is Outcome.ERROR


@pytest.mark.parametrize(
    ("age", "limit", "outcome"),
    [("1h", "24h", "pass"), ("25h", "24h", "incomplete"), ("30d", None, "pass")],
)
def test_an_old_report_is_doubt(age: str, limit: str | None, outcome: str) -> None:
    made = NOW - timedelta(seconds=Duration.parse(age).seconds)
    rules = CoverageGate(max_age=Duration.parse(limit) if limit else None)
    assert verdict_of(rules, evidence(cobertura(a=[1]), written=made)).outcome == outcome


def test_a_report_that_is_older_than_what_is_judged_is_doubt() -> None:
    report = evidence(cobertura(a=[1]), written=NOW - timedelta(minutes=10))
    context = replace(CONTEXT, built_at=NOW - timedelta(minutes=5))
    assert verdict_of(CoverageGate(), report, context=context).outcome is Outcome.INCOMPLETE


def test_a_report_from_the_future_is_doubt() -> None:
    report = evidence(cobertura(a=[1]), written=NOW + timedelta(hours=1))
    assert verdict_of(CoverageGate(), report).outcome is Outcome.INCOMPLETE


@pytest.mark.parametrize(
    ("revision", "outcome"),
    [("a" * 40, "pass"), ("a" * 12, "pass"), ("b" * 40, "incomplete"), ("a", "incomplete")],
)
def test_a_report_for_another_revision_is_doubt(revision: str, outcome: str) -> None:
    clean = {**SARIF, "runs": [{**SARIF["runs"][0], "results": []}]}
    context = replace(CONTEXT, revision=revision)
    assert verdict_of(FindingsGate(), clean, context=context).outcome == outcome


def test_a_report_for_another_digest_is_doubt() -> None:
    assert verdict_of(VulnerabilitiesGate(), CLEAN, context=image("linux/arm64")).outcome == "pass"
    other = image("linux/arm64", index=OTHER.replace("9", "8"))
    verdict = verdict_of(VulnerabilitiesGate(), CLEAN, context=other)
    assert verdict.outcome is Outcome.INCOMPLETE and DIGEST in verdict.reason


def test_what_is_shown_of_doubt_says_which() -> None:
    context = image("linux/amd64", "linux/arm64")
    verdict = verdict_of(VulnerabilitiesGate(), CLEAN, context=context)
    text = render(Verdicts((verdict,), NOW), "text")
    assert "\ngate: no report is about linux/amd64 of the image\n" in text
    assert "to fix it: scan each platform by its digest" in text


def test_a_platform_without_a_report_is_doubt() -> None:
    both = image("linux/amd64", "linux/arm64")
    verdict = verdict_of(VulnerabilitiesGate(), CLEAN, context=both)
    assert verdict.outcome is Outcome.INCOMPLETE and "linux/amd64" in verdict.reason
    intel = {**CLEAN["Metadata"], "ImageConfig": {"architecture": "amd64", "os": "linux"}}
    more = {**CLEAN, "Metadata": intel}
    assert verdict_of(VulnerabilitiesGate(), CLEAN, more, context=both).outcome is Outcome.PASS


def test_a_report_of_another_architecture_of_the_same_digest_is_doubt() -> None:
    context = image("linux/amd64")
    context = replace(context, image=replace(context.image, platforms=(
        replace(context.image.platforms[0], config="sha256:" + "2" * 64),
    ))) if context.image else context  # fmt: skip
    assert verdict_of(VulnerabilitiesGate(), CLEAN, context=context).outcome == "incomplete"


def test_a_report_of_the_sources_is_not_one_of_the_image_where_that_is_asked_for() -> None:
    clean = {**GRYPE, "matches": [], "source": {"type": "directory", "target": "."}}
    context = image("linux/amd64")
    assert verdict_of(VulnerabilitiesGate(), clean, context=context).outcome == "pass"
    rules = VulnerabilitiesGate(about="image")
    assert verdict_of(rules, clean, context=context).outcome == "incomplete"
    assert verdict_of(VulnerabilitiesGate(about="source"), CLEAN, context=context).outcome == "pass"


def test_doubt_warns_only_where_that_is_written(tmp_path: Path) -> None:
    section = GatesSection(coverage=CoverageGate(reports="no.xml"))
    place = GateEnvironment(tmp_path)
    assert run_gates(section, CONTEXT, place).exit_code == 11
    section = replace(section, coverage=CoverageGate(reports="no.xml", on_incomplete="warn"))
    verdicts = run_gates(section, CONTEXT, place)
    assert verdicts.exit_code == 0
    assert [one.outcome for one in verdicts] == [Outcome.INCOMPLETE]
    (tmp_path / "no.xml").write_bytes(cobertura(a=[0]))
    assert run_gates(section, CONTEXT, place).exit_code == 9


def test_files_are_found_by_name_format_and_glob(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.xml").write_bytes(JUNIT)
    (tmp_path / "out" / "b.xml").write_bytes(b"")
    os.utime(tmp_path / "out" / "a.xml", (1_700_000_000, 1_700_000_000))
    first, second, third, fourth = read_reports(
        ["out/*.xml", "junit:out/a.xml", "out/**/*.json"], tmp_path
    )
    assert first.report is not None and first.path == "out/a.xml" and first.digest
    assert second.problem == "out/b.xml: the report is empty" and not second.missing
    assert third.report == first.report
    assert fourth.missing
    (folder,) = read_reports(["out"], tmp_path)
    assert folder.problem == "out is not a file"


def test_names_of_files_are_told_from_the_root_of_the_project(tmp_path: Path) -> None:
    raw = COBERTURA.replace(b"app/a.py", f"{tmp_path}/app/a.py".encode())
    (tmp_path / "c.xml").write_bytes(raw)
    (one,) = read_reports(["c.xml"], tmp_path)
    assert one.report is not None
    assert "app/a.py" in one.report.content.files  # type: ignore[union-attr]


def test_commands_write_reports_anew_and_old_ones_are_no_proof(tmp_path: Path) -> None:
    (tmp_path / "c.xml").write_bytes(cobertura(a=[1]))
    rules = CoverageGate(reports="c.xml", run="exit 0")
    now = replace(CONTEXT, now=datetime.now(UTC))
    verdicts = run_gates(GatesSection(coverage=rules), now, GateEnvironment(tmp_path, os.environ))
    assert verdicts.exit_code == 11 and not (tmp_path / "c.xml").exists()
    (tmp_path / "good").write_bytes(cobertura(a=[1]))
    rules = CoverageGate(reports="c.xml", run=("cp", "good", "c.xml"))
    verdicts = run_gates(GatesSection(coverage=rules), now, GateEnvironment(tmp_path, os.environ))
    assert verdicts.exit_code == 0


def test_a_report_of_the_day_before_yesterday_is_no_pass_unless_that_is_said(
    tmp_path: Path,
) -> None:
    (tmp_path / "c.xml").write_bytes(cobertura(a=[1]))
    rules, later = CoverageGate(reports="c.xml"), datetime.now(UTC) + timedelta(days=2)
    section, context = GatesSection(coverage=rules), replace(CONTEXT, now=later)
    found = run_gates(section, context, GateEnvironment(tmp_path))
    assert found.exit_code == 11
    assert "old, more than max-age 1d" in next(iter(found)).reason
    section = replace(section, max_age=Duration.parse("3d"))
    assert run_gates(section, context, GateEnvironment(tmp_path)).exit_code == 0


def test_an_unknown_gate_is_named() -> None:
    section = GatesSection(coverage=CoverageGate())
    with pytest.raises(UsageError, match="coverag'"):
        run_gates(section, CONTEXT, GateEnvironment(Path()), names=["coverag"])


def verdicts(*outcomes: str) -> Verdicts:
    checks = [Verdict(one, "kind", ()) for one in outcomes]
    from shipline.gates import Check

    return Verdicts(
        tuple(
            replace(verdict, checks=(Check("c", Outcome(one), "because"),))
            for verdict, one in zip(checks, outcomes, strict=True)
        ),
        NOW,
    )


@pytest.mark.parametrize(
    ("outcomes", "code"),
    [
        (["pass", "waived", "skipped"], 0),
        (["pass", "fail", "error"], 9),
        (["pass", "error"], 11),
        (["incomplete"], 11),
        ([], 11),
    ],
)
def test_a_failure_outweighs_doubt_and_doubt_outweighs_success(
    outcomes: list[str], code: int
) -> None:
    found = verdicts(*outcomes)
    assert found.exit_code == code
    if code == 0:
        found.require()
        return
    with pytest.raises(GateRefused if code == 9 else GateUndecided) as caught:
        found.require()
    assert caught.value.exit_code == code


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [
        (["fail"], "the gate fail refused: because"),
        (["error", "fail", "fail"], "the gates fail, fail refused"),
        (["pass", "incomplete"], "the gate incomplete could not tell: because"),
        ([], "no gate was judged"),
    ],
)
def test_the_error_names_the_gates_and_why(outcomes: list[str], expected: str) -> None:
    with pytest.raises((GateRefused, GateUndecided)) as caught:
        verdicts(*outcomes).require()
    assert caught.value.message == expected


def test_missing_evidence_is_never_raised(tmp_path: Path) -> None:
    (one,) = read_reports(["a\0b"], tmp_path)
    assert isinstance(one, ReportFile) and one.report is None


CONTRADICTIONS = {
    "lcov counts lines and lists none": b"TN:\nSF:a\nLF:10\nLH:1\nend_of_record\n"
    b"SF:b\nDA:1,1\nLF:1\nLH:1\nend_of_record\n",
    "lcov lists fewer lines": b"SF:b\nDA:1,1\nLF:100\nLH:1\nend_of_record\n",
    "lcov counts fewer hits": b"SF:b\nDA:1,1\nDA:2,1\nLF:2\nLH:1\nend_of_record\n",
    "lcov lists no branches": b"SF:b\nDA:1,1\nBRF:4\nBRH:0\nend_of_record\n",
    "cobertura lists fewer lines": cobertura(a=[1]).replace(
        b'line-rate="1"', b'lines-valid="100" lines-covered="1"'
    ),
    "cobertura counts fewer hits": cobertura(a=[1, 1]).replace(
        b'line-rate="1"', b'lines-valid="2" lines-covered="1"'
    ),
    "cobertura states a lower rate": cobertura(a=[1, 1]).replace(b'"1"', b'"0.5"', 1),
    "jacoco lists fewer lines": JACOCO.replace(
        b'missed="1" covered="1"', b'missed="8" covered="1"'
    ),
    "coverage.py lists fewer lines": json.dumps(
        {**COVERAGE_PY, "totals": {"covered_lines": 2, "num_statements": 30}}
    ).encode(),
    "clover lists no lines": CLOVER_ISTANBUL.replace(b"<line ", b"<other "),
    "a summary has a lower total": json.dumps(
        {**ISTANBUL_SUMMARY, "total": {"lines": {"total": 100, "covered": 9}}}
    ).encode(),
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_coverage_that_contradicts_its_own_totals_proves_nothing(name: str) -> None:
    verdict = verdict_of(CoverageGate(min=0.0), CONTRADICTIONS[name])
    assert (verdict.outcome, verdict.blocks) == (Outcome.INCOMPLETE, True)


def test_junit_that_lists_fewer_cases_than_it_counts_proves_nothing() -> None:
    one = b'<testcase name="a"/>'
    for head in (b'<testsuite tests="100">', b'<testsuites tests="100"><testsuite tests="1">'):
        tail = b"</testsuite></testsuites>" if b"suites" in head else b"</testsuite>"
        verdict = verdict_of(TestsGate(), head + one + tail)
        assert verdict.outcome is Outcome.INCOMPLETE
        assert "counts 100 tests and lists 1" in verdict.reason
    assertions = b'<testsuite tests="100" hostname="tbd">'  # Catch2 counts assertions
    assert verdict_of(TestsGate(), assertions + one + b"</testsuite>").outcome is Outcome.PASS
