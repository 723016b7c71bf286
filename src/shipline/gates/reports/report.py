"""The values that reports are parsed into."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import IntEnum
from typing import Literal, Self
from urllib.parse import urlsplit

from shipline.errors import ContentError
from shipline.gates.reports.coverage import Coverage


class Severity(IntEnum):
    """Severity of a vulnerability. UNKNOWN sorts lowest, but gates treat it as severe."""

    UNKNOWN = 0
    NEGLIGIBLE = 1
    LOW = 2
    MEDIUM = 3
    HIGH = 4
    CRITICAL = 5

    @classmethod
    def parse(cls, text: str) -> Self:
        """The severity of a word used by tools, in any case. Raises ValueError for another word."""
        word = text.strip().upper()
        try:
            return cls[_WORDS.get(word, word)]
        except KeyError:
            raise ValueError(
                f"not a severity: {text[:40]!r}; write negligible, low, medium, high or critical"
            ) from None

    @classmethod
    def named(cls, text: str) -> Self:
        """Like `parse`, but UNKNOWN for another word."""
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


class FindingLevel(IntEnum):
    """The level of a finding (SARIF 2.1.0, section 3.27.10), in order."""

    NONE = 0
    NOTE = 1
    WARNING = 2
    ERROR = 3

    def __str__(self) -> str:
        return self.name.lower()


class Confidence(IntEnum):
    """How sure a scanner is of a finding, in the order and the numbers of ZAP."""

    FALSE_POSITIVE = 0
    LOW = 1
    MEDIUM = 2
    HIGH = 3
    CONFIRMED = 4

    @classmethod
    def named(cls, text: str) -> Self | None:
        """That of a word, in any case; None for another word."""
        return cls.__members__.get(re.sub("[ -]", "_", text.strip().upper()))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Like `named`, but raises ValueError for another word."""
        if (found := cls.named(text)) is None:
            raise ValueError(f"not a confidence: {text[:40]!r}; write low, medium, high, confirmed")
        return found

    def __str__(self) -> str:
        return self.name.lower().replace("_", "-")


@dataclass(frozen=True, slots=True)
class Finding:
    """One result. `fingerprint` does not change when lines move within a file; `state` is SARIF's
    baselineState.

    `severity` is `security-severity`, or UNKNOWN; `line` is 0 if there is none.
    """

    rule: str
    level: FindingLevel
    message: str
    path: str = ""
    line: int = 0
    severity: Severity = Severity.UNKNOWN
    fingerprint: str = ""
    state: str = ""
    suppressed: bool = False
    tool: str = ""
    confidence: Confidence | None = None

    @property
    def key(self) -> str:
        """The same for the same finding in another run."""
        return f"{self.rule} {self.path} {self.fingerprint}"

    def __str__(self) -> str:
        location = f"{self.path}:{self.line}" if self.line else self.path
        return ": ".join(filter(None, (location, self.rule, self.message)))


def fingerprint_of(*parts: str) -> str:
    """A fingerprint of what stays the same of a finding."""
    return hashlib.sha256("\0".join(parts).encode(errors="replace")).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Findings:
    """The findings of a tool."""

    findings: tuple[Finding, ...]


@dataclass(frozen=True, slots=True)
class WebFindings:
    """What a scanner found in running services; `path` of each is a URL. `targets` are those that
    it reached, as `host:port`, or `host` where the port is not known.
    """

    findings: tuple[Finding, ...]
    targets: frozenset[str]


@dataclass(frozen=True, slots=True)
class Component:
    """A package; `licenses` are SPDX identifiers, expressions or names that all apply."""

    name: str
    version: str = ""
    purl: str = ""
    licenses: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.name} {self.version}".rstrip()


@dataclass(frozen=True, slots=True)
class Sbom:
    """The packages in an image or a directory."""

    components: tuple[Component, ...]


NAMES_KEPT = 50  # failed tests kept by name; all are counted


@dataclass(frozen=True, slots=True)
class TestResults:
    """Numbers of test cases; `flaky` ones passed after a failure and are also in `passed`.

    `failed_names` and `flaky_names` are the first NAMES_KEPT of them.
    """

    __test__ = False  # or pytest collects it

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
            (self.failed_names + other.failed_names)[:NAMES_KEPT],
            (self.flaky_names + other.flaky_names)[:NAMES_KEPT],
        )


@dataclass(frozen=True, slots=True)
class VexStatement:
    """`products` and `subcomponents` are purls; with no subcomponents it is about the products."""

    vulnerability: str
    status: str
    aliases: tuple[str, ...] = ()
    products: tuple[str, ...] = ()
    subcomponents: tuple[str, ...] = ()
    justification: str = ""
    at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Vex:
    """The statements of a document, in order."""

    statements: tuple[VexStatement, ...]
    author: str = ""


@dataclass(frozen=True, slots=True)
class Vulnerability:
    """One vulnerability of one package.

    `fixed` are the versions with a fix, `fix_date` is when the first was released; `path` is the
    file, layer or target of the package; `epss` is the probability of exploitation, 0 to 1;
    `exploited` is set if it is in CISA's KEV catalogue. `score` is a CVSS base score, 0 if unknown.
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
        """Its identifier and aliases."""
        return (self.id, *self.aliases)

    @property
    def key(self) -> str:
        """The same for the same vulnerability of any version of the package."""
        return f"{self.id} {self.package}"

    def __str__(self) -> str:
        fix = f", fixed in {', '.join(self.fixed)}" if self.fixed else ", no fix"
        return f"{self.id} ({self.severity}) in {self.package} {self.version}".rstrip() + fix


@dataclass(frozen=True, slots=True)
class Vulnerabilities:
    """`packages_scanned` is the number of scanned packages or targets; None if unknown."""

    vulnerabilities: tuple[Vulnerability, ...]
    packages_scanned: int | None = None


Content = Coverage | TestResults | Findings | WebFindings | Vulnerabilities | Sbom | Vex


class ReportError(ContentError):
    """The bytes are not a report that can be read, so they prove nothing."""

    code = "report-invalid"


@dataclass(frozen=True, slots=True)
class ReportSubject:
    """What a report says it is about; fields that it does not state are empty.

    `digests` are those of an index, a manifest or a configuration; `platform` is `os/architecture`.
    """

    kind: Literal["image", "source", ""] = ""
    digests: frozenset[str] = frozenset()
    platform: str = ""
    revision: str = ""


@dataclass(frozen=True, slots=True)
class Tool:
    """The tool that wrote a report; `database` is the build time of its vulnerability database."""

    name: str = ""
    version: str = ""
    database: datetime | None = None

    def __str__(self) -> str:
        return " ".join(filter(None, (self.name, self.version)))


@dataclass(frozen=True, slots=True)
class Report:
    """A parsed report. `gaps` say why it is not complete: such a report proves nothing."""

    format: str
    content: Content
    subject: ReportSubject = field(default_factory=ReportSubject)
    created: datetime | None = None
    tool: Tool = field(default_factory=Tool)
    gaps: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def target_of(text: str) -> str:
    """`host:port` of a URL, or of what a scanner was given; `host` if the port is not known; empty
    if it has no host.
    """
    try:
        parts = urlsplit(text if "://" in text else f"//{text}")
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
        host = (parts.hostname or "").rstrip(".")
    except ValueError:
        return ""
    return f"{host}:{port}" if host and port else host


def parse_time(text: str) -> datetime | None:
    """The time of an ISO 8601 text, in UTC if it has no zone; None if it is not a time."""
    try:
        parsed = datetime.fromisoformat(text.strip())
        return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def parse_zoned_time(text: str) -> datetime | None:
    """Like `parse_time`, but None without a zone: some tools mean local time, some UTC."""
    parsed = parse_time(text)
    return parsed if parsed and re.search(r"(Z|[+-]\d\d:?\d\d)\s*$", text) else None


def parse_local_time(text: str) -> datetime | None:
    """Like `parse_time`, but a text without a zone is in local time."""
    try:
        return datetime.fromisoformat(text.strip()).astimezone(UTC)
    except (ValueError, OverflowError, OSError):
        return None


def parse_epoch(seconds: float) -> datetime | None:
    """The time of Unix seconds, or milliseconds if the number is too large; None if it is not a
    time.
    """
    if seconds > 1e11:  # the year 5138: some tools write milliseconds, some seconds
        seconds /= 1000
    try:
        return datetime.fromtimestamp(seconds, UTC) if seconds > 0 else None
    except (ValueError, OverflowError, OSError):
        return None
