"""JUnit XML, as pytest, Maven Surefire, Gradle, Jest, go-junit-report, GoogleTest write it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import BinaryIO

from shipline.gates.reports.fields import decimal, whole
from shipline.gates.reports.report import NAMED, Report, TestResults, Tool, zoned_moment
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
    todo: int = 0  # failed ones in suites, whose claims have them
    all_todo: int = 0  # also those outside of a suite
    flaky: int = 0
    duration_s: float = 0.0
    failed_names: list[str] = field(default_factory=list)
    flaky_names: list[str] = field(default_factory=list)
    outside: Counter[str] = field(default_factory=Counter)  # failures and errors of no case


def parse(source: BinaryIO) -> Report:
    """Suites may be nested. A suite that claims more failures than its cases show, or has some of
    its own, is believed: some tools report what went wrong outside of a test only there.
    """
    count = _Count()
    claimed_failures = claimed_errors = all_failures = all_errors = depth = 0
    created: datetime | None = None
    events = read_xml(source, roots=_SUITES)
    for event in events:
        if event.name in _SUITES:
            if isinstance(event, Start):
                failures = whole(event.attributes.get("failures") or "0", "failures")
                errors = whole(event.attributes.get("errors") or "0", "errors")
                if event.name == "testsuites":
                    all_failures, all_errors = failures, errors
                elif depth == 0:
                    claimed_failures += failures
                    claimed_errors += errors
                created = created or zoned_moment(event.attributes.get("timestamp", ""))
            depth += _deeper(event)
        elif isinstance(event, Start) and event.name == "testcase":
            _case(event, events, count, in_suite=depth > 0)
        elif isinstance(event, Start) and event.name in _BROKEN:
            count.outside[event.name] += 1
    claimed_failures = max(claimed_failures - count.todo, all_failures - count.all_todo)
    claimed_errors = max(claimed_errors, all_errors)
    results = TestResults(
        count.passed,
        max(count.failed + count.outside["failure"], claimed_failures - count.errors),
        max(count.errors + count.outside["error"], claimed_errors - count.failed),
        count.skipped,
        count.flaky,
        count.duration_s,
        tuple(count.failed_names),
        tuple(count.flaky_names),
    )
    return Report("junit", results, created=created, tool=Tool("junit"))


def _deeper(event: Start | End) -> int:
    if event.name != "testsuite":
        return 0
    return 1 if isinstance(event, Start) else -1


def _case(case: Start, events: Iterator[Start | End], count: _Count, *, in_suite: bool) -> None:
    """A case that is still to be done, as node:test marks it, may fail: that is no failure."""
    seen: set[str] = set()
    for event in events:
        if isinstance(event, End) and event.name == "testcase":
            break
        if isinstance(event, Start):
            todo = event.name == "skipped" and event.attributes.get("type") == "todo"
            seen.add("todo" if todo else event.name)
    attributes = case.attributes
    told = {(attributes.get(key) or "").lower() for key in ("status", "result")}
    if told & _FAILED and not seen & {"failure", "error", "skipped", "todo"}:
        seen.add("failure")
    count.duration_s += decimal(attributes.get("time") or "0", "time")
    words = dict.fromkeys((attributes.get("classname"), attributes.get("name")))
    name = ".".join(filter(None, words))[:300]
    if "todo" in seen:
        count.skipped += 1
        count.todo += in_suite and "failure" in seen
        count.all_todo += "failure" in seen
    elif seen & {"failure", "error"}:
        if "error" in seen and "failure" not in seen:
            count.errors += 1
        else:
            count.failed += 1
        count.failed_names += [name] if len(count.failed_names) < NAMED else []
    elif "skipped" in seen or attributes.get("status") in ("notrun", "disabled", "skipped"):
        count.skipped += 1
    else:
        count.passed += 1
        if seen & _FLAKY:
            count.flaky += 1
            count.flaky_names += [name] if len(count.flaky_names) < NAMED else []
