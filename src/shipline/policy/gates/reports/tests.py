"""Results of a test run."""

from __future__ import annotations

from dataclasses import dataclass

NAMED = 50  # failed tests that are kept by name; all are counted


@dataclass(frozen=True, slots=True)
class TestResults:
    """Counts of test cases; `flaky` ones passed after a failure and count as passed.

    `failed_names` and `flaky_names` are the first of them.
    """

    __test__ = False  # pytest takes names like this for a class of tests

    passed: int = 0
    failed: int = 0
    errors: int = 0
    skipped: int = 0
    flaky: int = 0
    duration_s: float = 0.0
    failed_names: tuple[str, ...] = ()
    flaky_names: tuple[str, ...] = ()

    @property
    def total(self) -> int:
        return self.passed + self.failed + self.errors + self.skipped

    def __add__(self, other: TestResults) -> TestResults:
        return TestResults(
            self.passed + other.passed,
            self.failed + other.failed,
            self.errors + other.errors,
            self.skipped + other.skipped,
            self.flaky + other.flaky,
            self.duration_s + other.duration_s,
            (self.failed_names + other.failed_names)[:NAMED],
            (self.flaky_names + other.flaky_names)[:NAMED],
        )
