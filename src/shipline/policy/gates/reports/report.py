"""A report: what a tool found, about what, when, and what it left out."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

from shipline.errors import ContentError
from shipline.policy.gates.reports.coverage import Coverage
from shipline.policy.gates.reports.findings import Findings
from shipline.policy.gates.reports.sbom import Sbom
from shipline.policy.gates.reports.tests import TestResults
from shipline.policy.gates.reports.vex import Vex
from shipline.policy.gates.reports.vulnerabilities import Vulnerabilities

Content = Coverage | TestResults | Findings | Vulnerabilities | Sbom | Vex


class ReportError(ContentError):
    """The bytes are not a report that this program can read; nothing may be concluded from them."""

    code = "report"


@dataclass(frozen=True, slots=True)
class Subject:
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
    subject: Subject = field(default_factory=Subject)
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
