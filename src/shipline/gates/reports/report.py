"""A report: what a tool found, about what, when, and what it left out."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import IntEnum
from typing import Literal, Self

from shipline.errors import ContentError
from shipline.gates.reports.coverage import Coverage


class Severity(IntEnum):
    """How bad it is; UNKNOWN sorts lowest and is treated as bad by those who must decide."""

    UNKNOWN = 0
    NEGLIGIBLE = 1
    LOW = 2
    MEDIUM = 3
    HIGH = 4
    CRITICAL = 5

    @classmethod
    def parse(cls, text: str) -> Self:
        """The severity that tools call so, in any case. Raises ValueError for another word."""
        word = text.strip().upper()
        try:
            return cls[_WORDS.get(word, word)]
        except KeyError:
            raise ValueError(
                f"not a severity: {text[:40]!r}; write negligible, low, medium, high or critical"
            ) from None

    @classmethod
    def named(cls, text: str) -> Self:
        """As `parse`, and UNKNOWN for another word."""
        try:
            return cls.parse(text)
        except ValueError:
            return cls(0)

    @classmethod
    def scored(cls, score: float) -> Self:
        """From a CVSS base score (CVSS v3.1, table 14); UNKNOWN outside 0 to 10."""
        if not 0 <= score <= 10:
            return cls(0)
        limits = (("CRITICAL", 9.0), ("HIGH", 7.0), ("MEDIUM", 4.0), ("LOW", 0.1))
        return next((cls[name] for name, least in limits if score >= least), cls["NEGLIGIBLE"])

    def __str__(self) -> str:
        return self.name.lower()


_WORDS = {
    "MODERATE": "MEDIUM",
    "IMPORTANT": "HIGH",
    "INFO": "NEGLIGIBLE",
    "INFORMATIONAL": "NEGLIGIBLE",
    "NONE": "NEGLIGIBLE",
    "MINIMAL": "NEGLIGIBLE",
    "UNTRIAGED": "UNKNOWN",
    "": "UNKNOWN",
}


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


@dataclass(frozen=True, slots=True)
class Component:
    """A package; `licenses` are SPDX identifiers, expressions or names, all of which apply."""

    name: str
    version: str = ""
    purl: str = ""
    licenses: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.name} {self.version}".rstrip()


@dataclass(frozen=True, slots=True)
class Sbom:
    components: tuple[Component, ...]


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


@dataclass(frozen=True, slots=True)
class VexStatement:
    """`products` and `parts` are purls; no parts: the statement is about the product itself."""

    vulnerability: str
    status: str
    aliases: tuple[str, ...] = ()
    products: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()
    justification: str = ""
    at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Vex:
    """Statements of one author, in the order of the document."""

    statements: tuple[VexStatement, ...]
    author: str = ""


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


Content = Coverage | TestResults | Findings | Vulnerabilities | Sbom | Vex


class ReportError(ContentError):
    """The bytes are not a report that this program can read; nothing may be concluded from them."""

    code = "report"


@dataclass(frozen=True, slots=True)
class ReportSubject:
    """What a report says it is about; empty fields are what it does not say.

    `digests` are those of an index, a manifest or a configuration; `platform` is `os/architecture`.
    """

    kind: Literal["image", "source", ""] = ""
    digests: frozenset[str] = frozenset()
    platform: str = ""
    revision: str = ""


@dataclass(frozen=True, slots=True)
class Tool:
    """The program that wrote a report; `database` is when its vulnerability data was built."""

    name: str = ""
    version: str = ""
    database: datetime | None = None

    def __str__(self) -> str:
        return " ".join(filter(None, (self.name, self.version)))


@dataclass(frozen=True, slots=True)
class Report:
    """`gaps` are reasons why the tool did not look at everything: such a report proves nothing."""

    format: str
    content: Content
    subject: ReportSubject = field(default_factory=ReportSubject)
    created: datetime | None = None
    tool: Tool = field(default_factory=Tool)
    gaps: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def moment(text: str) -> datetime | None:
    """The time behind an ISO 8601 text, in UTC where it names no zone; None where it is none."""
    try:
        found = datetime.fromisoformat(text.strip())
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def zoned_moment(text: str) -> datetime | None:
    """As `moment`, and None where the text names no zone: some tools mean local time, some UTC."""
    found = moment(text)
    return found if found and re.search(r"(Z|[+-]\d\d:?\d\d)\s*$", text) else None


def local_moment(text: str) -> datetime | None:
    """As `moment`, where a text without zone is the time of this machine."""
    try:
        return datetime.fromisoformat(text.strip()).astimezone(UTC)
    except (ValueError, OverflowError, OSError):
        return None


def epoch(seconds: float) -> datetime | None:
    """The time behind Unix seconds, or milliseconds where they would be too far away; None for
    what is no time.
    """
    if seconds > 1e11:  # the year 5138: some tools write milliseconds, some seconds
        seconds /= 1000
    try:
        return datetime.fromtimestamp(seconds, UTC) if seconds > 0 else None
    except (ValueError, OverflowError, OSError):
        return None
