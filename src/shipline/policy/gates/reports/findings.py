"""Findings of static analysis and of secret scanners."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from shipline.policy.gates.reports.severity import Severity


class Level(IntEnum):
    """How a tool ranks a finding (SARIF 2.1.0, section 3.27.10), in order."""

    NONE = 0
    NOTE = 1
    WARNING = 2
    ERROR = 3

    def __str__(self) -> str:
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Finding:
    """One result. `fingerprint` stays the same while lines move, in one file; `state` is SARIF's
    baselineState.

    `severity` is that of `security-severity`, UNKNOWN where the tool gives none. `line` is 0 where
    there is none.
    """

    rule: str
    level: Level
    message: str
    path: str = ""
    line: int = 0
    severity: Severity = Severity.UNKNOWN
    fingerprint: str = ""
    state: str = ""
    suppressed: bool = False
    tool: str = ""

    @property
    def key(self) -> str:
        """Equal for the same finding in another run."""
        return f"{self.rule} {self.path} {self.fingerprint}"

    def __str__(self) -> str:
        place = f"{self.path}:{self.line}" if self.line else self.path
        return ": ".join(filter(None, (place, self.rule, self.message)))


@dataclass(frozen=True, slots=True)
class Findings:
    found: tuple[Finding, ...]
