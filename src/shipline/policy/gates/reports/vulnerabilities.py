"""Vulnerabilities of packages."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from shipline.policy.gates.reports.severity import Severity


@dataclass(frozen=True, slots=True)
class Vulnerability:
    """One vulnerability of one package.

    `fixed` are versions without it, `fix_date` when the first of them came; `path` is the file,
    layer or target it was found in; `epss` is the probability of exploitation, 0 to 1, `exploited`
    that it is in CISA's catalogue (KEV). `score` is a CVSS base score, 0 where none is known.
    """

    id: str
    package: str
    version: str = ""
    severity: Severity = Severity.UNKNOWN
    aliases: tuple[str, ...] = ()
    purl: str = ""
    fixed: tuple[str, ...] = ()
    fix_date: datetime | None = None
    published: datetime | None = None
    status: str = ""
    path: str = ""
    score: float = 0.0
    epss: float = 0.0
    exploited: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """Its identifier and the others it is known under."""
        return (self.id, *self.aliases)

    @property
    def key(self) -> str:
        """Equal for the same vulnerability of the same package, whatever its version."""
        return f"{self.id} {self.package}"

    def __str__(self) -> str:
        fix = f", fixed in {', '.join(self.fixed)}" if self.fixed else ", no fix"
        return f"{self.id} ({self.severity}) in {self.package} {self.version}".rstrip() + fix


@dataclass(frozen=True, slots=True)
class Vulnerabilities:
    """`looked_at` is the number of packages or targets that were looked at; None where unknown."""

    found: tuple[Vulnerability, ...]
    looked_at: int | None = None
