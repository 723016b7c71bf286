"""JUnit XML of pytest, Maven Surefire, Gradle, Jest, go-junit-report, GoogleTest and others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import BinaryIO

from shipline.gates.reports.fields import parse_count, parse_number
from shipline.gates.reports.report import NAMES_KEPT, Report, TestResults, Tool, parse_zoned_time
from shipline.gates.reports.streams import End, Start, read_xml

_FLAKY = {"flakyFailure", "flakyError"}
_SUITES = ("testsuites", "testsuite")
_BROKEN = ("failure", "error")
_FAILED = {"failed", "failure", "fail", "error", "broken"}  # status or result of a case


@dataclass(slots=True)
class _Count:
    passed: int = 0
    failed: int = 0
    errors: int = 0
    skipped: int = 0
    todo: int = 0  # failed ones inside a suite, whose totals include them
    all_todo: int = 0  # also those outside of any suite
    flaky: int = 0
    duration_s: float = 0.0
    failed_names: list[str] = field(default_factory=list)
    flaky_names: list[str] = field(default_factory=list)
    outside: Counter[str] = field(default_factory=Counter)  # failures and errors outside of a case


def parse(source: BinaryIO) -> Report:
    """Suites may be nested. More failures in the totals of a suite than in its cases count too:
    some tools report what fails outside of a test only there. More tests in the totals than cases
    are a gap.
    """
    count = _Count()
    stated_failures = stated_errors = all_failures = all_errors = depth = 0
    stated_tests = all_tests = 0
    created: datetime | None = None
    events = read_xml(source, roots=_SUITES)
    for event in events:
        if event.name in _SUITES:
            if isinstance(event, Start):
                failures = parse_count(event.attributes.get("failures") or "0", "failures")
                errors = parse_count(event.attributes.get("errors") or "0", "errors")
                tests = parse_count(event.attributes.get("tests") or "0", "tests")
                if event.attributes.get("hostname") == "tbd":  # Catch2, which counts assertions
                    tests = 0
                if event.name == "testsuites":
                    all_failures, all_errors, all_tests = failures, errors, tests
                elif depth == 0:
                    stated_failures += failures
                    stated_errors += errors
                    stated_tests += tests
                created = created or parse_zoned_time(event.attributes.get("timestamp", ""))
            depth += _depth_change(event)
        elif isinstance(event, Start) and event.name == "testcase":
            _case(event, events, count, in_suite=depth > 0)
        elif isinstance(event, Start) and event.name in _BROKEN:
            count.outside[event.name] += 1
    stated_failures = max(stated_failures - count.todo, all_failures - count.all_todo)
    stated_errors = max(stated_errors, all_errors)
    stated_tests = max(stated_tests, all_tests)
    results = TestResults(
        count.passed,
        max(count.failed + count.outside["failure"], stated_failures - count.errors),
        max(count.errors + count.outside["error"], stated_errors - count.failed),
        count.skipped,
        count.flaky,
        count.duration_s,
        tuple(count.failed_names),
        tuple(count.flaky_names),
    )
    listed = count.passed + count.failed + count.errors + count.skipped
    gaps = (f"it counts {stated_tests:,} tests and lists {listed:,}",) * (stated_tests > listed)
    return Report("junit", results, created=created, tool=Tool("junit"), gaps=gaps)


def _depth_change(event: Start | End) -> int:
    if event.name != "testsuite":
        return 0
    return 1 if isinstance(event, Start) else -1


def _case(case: Start, events: Iterator[Start | End], count: _Count, *, in_suite: bool) -> None:
    """A case that node:test marks as todo may fail: that is not a failure."""
    seen: set[str] = set()
    for event in events:
        if isinstance(event, End) and event.name == "testcase":
            break
        if isinstance(event, Start):
            todo = event.name == "skipped" and event.attributes.get("type") == "todo"
            seen.add("todo" if todo else event.name)
    attributes = case.attributes
    stated = {(attributes.get(key) or "").lower() for key in ("status", "result")}
    if stated & _FAILED and not seen & {"failure", "error", "skipped", "todo"}:
        seen.add("failure")
    count.duration_s += parse_number(attributes.get("time") or "0", "time")
    names = dict.fromkeys((attributes.get("classname"), attributes.get("name")))
    name = ".".join(filter(None, names))[:300]
    if "todo" in seen:
        count.skipped += 1
        count.todo += in_suite and "failure" in seen
        count.all_todo += "failure" in seen
    elif seen & {"failure", "error"}:
        if "error" in seen and "failure" not in seen:
            count.errors += 1
        else:
            count.failed += 1
        count.failed_names += [name] if len(count.failed_names) < NAMES_KEPT else []
    elif "skipped" in seen or attributes.get("status") in ("notrun", "disabled", "skipped"):
        count.skipped += 1
    else:
        count.passed += 1
        if seen & _FLAKY:
            count.flaky += 1
            count.flaky_names += [name] if len(count.flaky_names) < NAMES_KEPT else []
