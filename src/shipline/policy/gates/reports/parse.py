"""From bytes to a report: the one place where what may go wrong becomes a ReportError."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import BinaryIO

from shipline.errors import UsageError
from shipline.policy.gates.reports.coverage import Coverage
from shipline.policy.gates.reports.detect import Foreign, detect, foreign
from shipline.policy.gates.reports.findings import Findings
from shipline.policy.gates.reports.report import Content, Report, ReportError
from shipline.policy.gates.reports.sbom import Sbom
from shipline.policy.gates.reports.tests import TestResults
from shipline.policy.gates.reports.vex import Vex
from shipline.policy.gates.reports.vulnerabilities import Vulnerabilities

_PARSERS: Mapping[type[Content], Mapping[str, str]] = {
    Coverage: {
        "coverage.py": "coveragepy:parse",
        "cobertura": "cobertura:parse",
        "jacoco": "jacoco:parse",
        "clover": "clover:parse",
        "lcov": "lcov:parse",
        "istanbul": "istanbul:parse_final",
        "istanbul-summary": "istanbul:parse_summary",
        "go": "gocover:parse",
    },
    TestResults: {"junit": "junit:parse"},
    Findings: {"sarif": "sarif:parse", "eslint": "eslint:parse"},
    Vulnerabilities: {
        "trivy": "trivy:parse",
        "grype": "grype:parse",
        "osv": "osv:parse",
        "npm-audit": "npm_audit:parse",
        "pip-audit": "pip_audit:parse",
    },
    Sbom: {
        "cyclonedx": "cyclonedx:parse",
        "spdx": "spdx:parse",
        "spdx3": "spdx:parse_linked",
    },
    Vex: {"openvex": "openvex:parse"},
}
_PLACES = {name: place for some in _PARSERS.values() for name, place in some.items()}
FORMATS = tuple(_PLACES)
_HEAD = 4096  # bytes
_BLANK = b"\xef\xbb\xbf\xff\xfe\x00 \t\r\n"


def formats_of(content: type[Content]) -> tuple[str, ...]:
    """The formats of reports that hold such content."""
    return tuple(_PARSERS[content])


def parse_report(source: BinaryIO, format: str = "") -> Report:
    """The report in `source`, a file that can be read again from its start.

    `format` is one of FORMATS, or empty to tell it by the content. Raises ReportError for bytes
    that are not a whole report of that format, whatever they are, with a hint where they are known
    as something else; UsageError for an unknown name.
    """
    if format and format not in _PLACES:
        raise UsageError(f"unknown report format: {format!r}", hint=f"one of {', '.join(FORMATS)}")
    try:
        return _parsed(source, format)
    except ReportError as error:
        if error.hint:
            raise
        tool = _foreign(source)
        if tool is None:
            hint = f"formats that are read: {', '.join(FORMATS)}"
            raise ReportError(error.message, hint=hint) from None
        raise ReportError(f"this is {tool.what}: {error.message}", hint=tool.hint) from None


def _parsed(source: BinaryIO, format: str) -> Report:
    try:
        if not source.read(_HEAD).strip(_BLANK):
            raise ReportError("the report is empty", hint="run the tool that writes it again")
        source.seek(0)
        return _parser(format or detect(source))(source)
    except UnicodeDecodeError as error:
        raise ReportError(f"not valid {error.encoding} text: {error.reason}") from None
    except (RecursionError, MemoryError):
        raise ReportError("nested too deeply") from None
    except (ValueError, OverflowError, OSError) as error:
        raise ReportError(f"cannot be read: {error}") from None


def _foreign(source: BinaryIO) -> Foreign | None:
    try:
        source.seek(0)
        return foreign(source)
    except (ReportError, ValueError, RecursionError, MemoryError, OSError):
        return None


def _parser(name: str) -> Callable[[BinaryIO], Report]:
    module, _, attribute = _PLACES[name].partition(":")
    found: Callable[[BinaryIO], Report] = getattr(
        import_module(f"shipline.policy.gates.reports.{module}"), attribute
    )
    return found
