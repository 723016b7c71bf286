"""The test gate: how many ran, failed, were skipped, were flaky, were lost."""

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
    """Checks for one or more reports taken together."""
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
            what=f"{failed:,} of {counted(results.total, 'test')} failed",
            hint="fix the tests, or the code under test",
        ),
        details=results.failed_names,
    )
    if not ran:
        what = "not one test ran" if results.total else "not one test was collected"
        yield undecided("tests", what, "see whether the runner finds them")
    elif ran < rules.min_tests:
        needed = "is" if rules.min_tests == 1 else "are"
        reason = f"{counted(ran, 'test')} ran, {rules.min_tests:,} {needed} needed"
        limit = f">= {rules.min_tests}"
        yield Check("tests", Outcome.FAIL, reason, str(ran), limit, "run all of them")
    else:
        reason = f"{counted(ran, 'test')} ran"
        yield Check("tests", Outcome.PASS, reason, str(ran), f">= {rules.min_tests}")
    if rules.max_skipped is not None:
        yield bound(
            "skipped",
            results.skipped,
            rules.max_skipped,
            what=f"{counted(results.skipped, 'test was', 'tests were')} skipped",
        )
    if rules.max_flaky is not None:
        what = f"{counted(results.flaky, 'test')} passed only after a failure"
        yield replace(
            bound("flaky", results.flaky, rules.max_flaky, what=what), details=results.flaky_names
        )
    if rules.max_duration is not None:
        seconds, most = round(results.duration_s, 1), rules.max_duration.seconds
        yield bound("duration", seconds, most, what=f"the tests took {seconds} s")
    if rules.max_lost is not None:
        yield _lost(results, context, gate, rules.max_lost)


def _lost(results: TestResults, context: GateContext, gate: str, limit: int) -> Check:
    before = context.before(gate)
    if before is None or "tests" not in before.numbers:
        return skipped("lost", "there is no promoted image to compare with yet")
    lost = max(0, int(before.numbers["tests"]) - results.total)
    return bound("lost", lost, limit, what=f"{counted(lost, 'test')} fewer than before")
