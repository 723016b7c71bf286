"""The test gate: tests that ran, failed, were skipped, flaky, or went missing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from shipline.gates.context import GateContext
from shipline.gates.reports import TestResults
from shipline.gates.section import TestsGate
from shipline.gates.thresholds import bound, skipped, undecided
from shipline.gates.verdict import Check, Measurements, Outcome
from shipline.units import counted


def judge_tests(
    rules: TestsGate, reports: list[TestResults], context: GateContext, gate: str
) -> tuple[list[Check], Measurements]:
    """Checks on all reports together."""
    results = sum(reports, TestResults())
    numbers = {"tests": results.total, "skipped": results.skipped, "flaky": results.flaky}
    return [*_checks(rules, results, context, gate)], Measurements(numbers)


def _checks(
    rules: TestsGate, results: TestResults, context: GateContext, gate: str
) -> Iterator[Check]:
    failed = results.failed + results.errors
    ran = results.total - results.skipped
    yield replace(
        bound(
            "failures",
            failed,
            rules.max_failed,
            reason=f"{failed:,} of {counted(results.total, 'test')} failed",
            hint="fix the tests, or the code under test",
        ),
        details=results.failed_names,
    )
    if not ran:
        problem = "no test ran" if results.total else "no tests were collected"
        yield undecided("tests", problem, "check that the test runner finds them")
    elif ran < rules.min_tests:
        verb = "is" if rules.min_tests == 1 else "are"
        reason = f"{counted(ran, 'test')} ran; {rules.min_tests:,} {verb} required"
        limit = f">= {rules.min_tests}"
        yield Check("tests", Outcome.FAIL, reason, str(ran), limit, "run all tests")
    else:
        reason = f"{counted(ran, 'test')} ran"
        yield Check("tests", Outcome.PASS, reason, str(ran), f">= {rules.min_tests}")
    if rules.max_skipped is not None:
        yield bound(
            "skipped",
            results.skipped,
            rules.max_skipped,
            reason=f"{counted(results.skipped, 'test was', 'tests were')} skipped",
        )
    if rules.max_flaky is not None:
        problem = f"{counted(results.flaky, 'test')} passed only on retry"
        yield replace(
            bound("flaky", results.flaky, rules.max_flaky, reason=problem),
            details=results.flaky_names,
        )
    if rules.max_duration is not None:
        seconds, longest = round(results.duration_s, 1), rules.max_duration.seconds
        yield bound("duration", seconds, longest, reason=f"the tests took {seconds} s")
    if rules.max_lost is not None:
        yield _lost(results, context, gate, rules.max_lost)


def _lost(results: TestResults, context: GateContext, gate: str, limit: int) -> Check:
    before = context.before(gate)
    if before is None or "tests" not in before.numbers:
        return skipped("lost", "no promoted image to compare with yet")
    lost = max(0, int(before.numbers["tests"]) - results.total)
    return bound("lost", lost, limit, reason=f"{counted(lost, 'test')} fewer than before")
