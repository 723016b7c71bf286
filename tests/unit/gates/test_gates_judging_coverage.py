"""Coverage: percentages, changed lines, drops; and test results."""

from __future__ import annotations

import pytest
from gate_samples import GO, ISTANBUL_SUMMARY, JUNIT
from hypothesis import given
from hypothesis import strategies as st
from judging import CONTEXT, baseline_after, changed, checks, cobertura, evidence, verdict_of

from shipline.gates import CoverageGate, Outcome, TestsGate
from shipline.gates.context import RepositoryPaths
from shipline.git import ChangedLines
from shipline.globs import Glob
from shipline.values import replace

RULES = CoverageGate()


@pytest.mark.parametrize(
    ("hits", "outcome"), [([1] * 8 + [0] * 2, Outcome.PASS), ([1] * 7 + [0] * 3, Outcome.FAIL)]
)
def test_eighty_percent_is_the_least_by_default(hits: list[int], outcome: Outcome) -> None:
    assert verdict_of(RULES, cobertura(a=hits)).outcome is outcome


def test_the_message_tells_how_many_lines_are_missing_and_never_rounds_up() -> None:
    verdict = verdict_of(RULES, cobertura(a=[1] * 7999 + [0] * 2001))
    assert verdict.outcome is Outcome.FAIL
    assert verdict.deciding_check.measured == "79.9 %"
    assert verdict.reason == "7,999 of 10,000 lines ran; 1 more is needed for 80 %"


def test_no_line_that_could_run_is_doubt() -> None:
    assert verdict_of(RULES, b'<coverage line-rate="1"></coverage>').outcome is Outcome.INCOMPLETE
    assert verdict_of(RULES, b"mode: set\n").outcome is Outcome.INCOMPLETE


def test_excluded_files_do_not_count() -> None:
    report = cobertura(a=[1] * 4, gen_b=[0] * 9)
    assert verdict_of(RULES, report).outcome is Outcome.FAIL
    rules = CoverageGate(exclude=(Glob("gen/**"),))
    assert verdict_of(rules, report).outcome is Outcome.PASS


def test_several_reports_are_one() -> None:
    halves = cobertura(a=[1, 1, 0, 0]), cobertura(a=[0, 0, 1, 1])
    assert verdict_of(CoverageGate(min=100), *halves).outcome is Outcome.PASS


def test_branches_that_are_asked_for_must_be_in_the_report() -> None:
    rules = CoverageGate(branch_min=50)
    assert checks(verdict_of(rules, cobertura(a=[1])))["branches"] == "incomplete"


def test_one_bad_file_is_found() -> None:
    rules = CoverageGate(min=50, file_min=50)
    verdict = verdict_of(rules, cobertura(a=[1] * 9, b=[0, 0, 1]))
    assert verdict.outcome is Outcome.FAIL and "b.py" in verdict.reason


def test_changed_lines_are_judged_alone() -> None:
    rules = CoverageGate(min=0, patch_min=60, patch_floor=0)
    report = cobertura(app_a=[0, 1, 1, 0, 0, 0])
    good = replace(CONTEXT, changes=changed(2, 3, 4, 90))
    assert checks(verdict_of(rules, report, context=good))["changed lines"] == "pass"
    bad = verdict_of(rules, report, context=replace(CONTEXT, changes=changed(3, 4, 5)))
    assert bad.deciding_check.measured == "33.3 %"
    assert bad.deciding_check.details == ("app/a.py: 4-5",)
    assert [one.line for one in bad.deciding_check.locations] == [4, 5]


def test_small_changes_are_skipped_and_say_so() -> None:
    rules = CoverageGate(min=0, patch_min=100)
    context = replace(CONTEXT, changes=changed(1))
    verdict = verdict_of(rules, cobertura(app_a=[0, 1]), context=context)
    assert checks(verdict) == {"lines": "pass", "changed lines": "skipped"}
    assert "fewer than 20" in verdict.checks[-1].reason


def test_changed_files_that_the_report_lacks_are_named() -> None:
    """A file that no test loads is in no report: "nothing was changed" would be wrong."""
    rules = CoverageGate(min=0, patch_min=90)
    context = replace(CONTEXT, changes=changed(1, 2, path="app/new.py", files=["app/a.py"]))
    verdict = verdict_of(rules, cobertura(app_a=[1]), context=context)
    assert verdict.checks[-1].outcome is Outcome.SKIPPED
    assert verdict.checks[-1].reason == (
        "no executable line was changed in a file of the report; it does not have app/new.py"
    )
    other = replace(CONTEXT, changes=changed(1, path="README.md", files=["app/a.py"]))
    verdict = verdict_of(rules, cobertura(app_a=[1]), context=other)
    assert verdict.checks[-1].reason == "no executable line was changed"


def test_without_a_base_or_lines_changed_lines_are_doubt() -> None:
    rules = CoverageGate(min=0, patch_min=10)
    assert verdict_of(rules, cobertura(a=[1])).outcome is Outcome.INCOMPLETE
    context = replace(CONTEXT, changes=changed(1))
    summary = verdict_of(rules, ISTANBUL_SUMMARY, context=context)
    assert summary.outcome is Outcome.INCOMPLETE


def test_a_path_that_could_be_two_changed_files_is_doubt() -> None:
    rules = CoverageGate(min=0, patch_min=10, patch_floor=0)
    context = replace(CONTEXT, changes=changed(1, path="x/a.py", files=["y/a.py"]))
    assert verdict_of(rules, cobertura(a=[1]), context=context).outcome is Outcome.INCOMPLETE


@pytest.mark.parametrize(
    ("path", "roots", "files", "found"),
    [
        ("src/a.py", (), ("src/a.py", "lib/src/a.py"), ("src/a.py",)),
        ("./src/a.py", (), ("src/a.py",), ("src/a.py",)),
        ("/ci/work/src/a.py", (), ("src/a.py", "a.py"), ("src/a.py",)),
        ("a.py", ("/ci/src",), ("src/a.py", "lib/a.py"), ("src/a.py",)),
        ("com/acme/A.java", (), ("app/src/main/java/com/acme/A.java",), None),
        ("example.com/m/pkg/a.go", (), ("pkg/a.go", "other/a.go"), ("pkg/a.go",)),
        ("src\\a.cs", (), ("src/a.cs",), ("src/a.cs",)),
        ("a.py", (), ("x/a.py", "y/a.py"), ("x/a.py", "y/a.py")),
        ("b.py", (), ("a.py",), ()),
    ],
)
def test_paths_of_reports_find_their_files(
    path: str, roots: tuple[str, ...], files: tuple[str, ...], found: tuple[str, ...] | None
) -> None:
    places = RepositoryPaths(ChangedLines({}, frozenset(files)), roots)
    assert places.find(path) == (files if found is None else found)


def test_a_drop_is_a_failure_and_deleting_covered_code_is_none() -> None:
    rules = CoverageGate(min=0, max_drop=1)
    before = baseline_after(verdict_of(rules, cobertura(a=[1] * 80 + [0] * 20)))
    context = replace(CONTEXT, baseline=before)
    worse = verdict_of(rules, cobertura(a=[1] * 76 + [0] * 24), context=context)
    assert checks(worse)["drop"] == "fail"
    deleted = cobertura(a=[1] * 40 + [0] * 20)
    assert checks(verdict_of(rules, deleted, context=context))["drop"] == "pass"
    strict = CoverageGate(min=0, max_drop=1, deleted_code="count")
    assert checks(verdict_of(strict, deleted, context=context))["drop"] == "fail"
    assert checks(verdict_of(rules, deleted))["drop"] == "skipped"


def test_go_is_judged_by_statements() -> None:
    assert verdict_of(CoverageGate(min=50), GO).reason == "5 of 10 lines ran"


@given(
    st.lists(st.integers(0, 1), min_size=1, max_size=30), st.integers(0, 29), st.integers(0, 100)
)
def test_a_line_that_no_longer_runs_never_mends_a_failure(
    hits: list[int], place: int, limit: int
) -> None:
    fewer = [*hits]
    fewer[place % len(hits)] = 0
    rules = CoverageGate(min=limit)
    before, after = (verdict_of(rules, cobertura(a=one)).outcome for one in (hits, fewer))
    assert not (before is Outcome.FAIL and after is not Outcome.FAIL)


def junit(passed: int = 0, failed: int = 0, skipped: int = 0) -> bytes:
    cases = ["<testcase/>"] * passed + ["<testcase><failure/></testcase>"] * failed
    cases += ["<testcase><skipped/></testcase>"] * skipped
    return f"<testsuite>{''.join(cases)}</testsuite>".encode()


@pytest.mark.parametrize(
    ("rules", "report", "outcome"),
    [
        (TestsGate(), junit(3), Outcome.PASS),
        (TestsGate(), junit(3, 1), Outcome.FAIL),
        (TestsGate(max_failed=1), junit(3, 1), Outcome.PASS),
        (TestsGate(), junit(), Outcome.INCOMPLETE),
        (TestsGate(min_tests=0), junit(), Outcome.INCOMPLETE),
        (TestsGate(), junit(skipped=3), Outcome.INCOMPLETE),
        (TestsGate(min_tests=10), junit(9), Outcome.FAIL),
        (TestsGate(max_skipped=1), junit(1, 0, 2), Outcome.FAIL),
        (TestsGate(max_failed=9, max_flaky=0), JUNIT, Outcome.FAIL),
    ],
)
def test_tests_are_counted(rules: TestsGate, report: bytes, outcome: Outcome) -> None:
    assert verdict_of(rules, report).outcome is outcome


def test_a_coverage_failure_names_files_and_lines() -> None:
    report = cobertura(src_a=[1, 0, 0, 1, 0], src_b=[1, 1], src_c=[0])
    (check,) = verdict_of(CoverageGate(min=90), report).checks
    assert check.details == (
        "src/a.py: 40.0 %, lines 2-3, 5 did not run",
        "src/c.py: 0.0 %, line 1 did not run",
    )
    assert [(one.path, one.line) for one in check.locations] == [("src/a.py", 2), ("src/c.py", 1)]
    each = verdict_of(CoverageGate(min=0, file_min=50), report).checks[-1]
    assert each.reason == "2 files have less: src/c.py, src/a.py"
    assert each.details == check.details
    assert verdict_of(CoverageGate(min=10), report).checks[0].details == ()


def test_counts_are_told_in_the_number_that_they_have() -> None:
    one = b'<testsuite><testcase name="a"/></testsuite>'
    said = [check.reason for check in verdict_of(TestsGate(max_skipped=0, max_flaky=0), one).checks]
    assert said == [
        "0 of 1 test failed",
        "1 test ran",
        "0 tests were skipped",
        "0 tests passed only on retry",
    ]


def test_lost_tests_are_noticed() -> None:
    rules = TestsGate(max_lost=1)
    context = replace(CONTEXT, baseline=baseline_after(verdict_of(rules, junit(10))))
    assert verdict_of(rules, junit(9), context=context).outcome is Outcome.PASS
    assert verdict_of(rules, junit(8), context=context).outcome is Outcome.FAIL


def test_one_report_of_two_that_fails_is_a_failure_though_the_other_is_missing() -> None:
    missing = replace(evidence(junit(1)), report=None, problem="x does not exist", missing=True)
    assert verdict_of(TestsGate(), junit(1), missing).outcome is Outcome.INCOMPLETE
    assert verdict_of(TestsGate(), junit(1, 1), missing).outcome is Outcome.FAIL
