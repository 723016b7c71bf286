"""From bytes to a report: the one place where what may go wrong becomes a ReportError."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import BinaryIO

from shipline.errors import UsageError
from shipline.policy.gates.reports.detect import detect
from shipline.policy.gates.reports.report import Report, ReportError

_PARSERS = {
    "coverage.py": "coveragepy:parse",
    "cobertura": "cobertura:parse",
    "jacoco": "jacoco:parse",
    "clover": "clover:parse",
    "lcov": "lcov:parse",
    "istanbul": "istanbul:parse_final",
    "istanbul-summary": "istanbul:parse_summary",
    "go": "gocover:parse",
    "junit": "junit:parse",
    "sarif": "sarif:parse",
    "eslint": "eslint:parse",
    "trivy": "trivy:parse",
    "grype": "grype:parse",
    "osv": "osv:parse",
    "npm-audit": "npm_audit:parse",
    "pip-audit": "pip_audit:parse",
    "cyclonedx": "cyclonedx:parse",
    "spdx": "spdx:parse",
    "spdx3": "spdx:parse_linked",
    "openvex": "openvex:parse",
}
FORMATS = tuple(_PARSERS)
_HEAD = 4096  # bytes
_BLANK = b"\xef\xbb\xbf\xff\xfe\x00 \t\r\n"


def parse_report(source: BinaryIO, format: str = "") -> Report:
    """The report in `source`, a file that can be read again from its start.

    `format` is one of FORMATS, or empty to tell it by the content. Raises ReportError for bytes
    that are not a whole report of that format, whatever they are; UsageError for an unknown name.
    """
    if format and format not in _PARSERS:
        raise UsageError(f"unknown report format: {format!r}", hint=f"one of {', '.join(FORMATS)}")
    try:
        if not source.read(_HEAD).strip(_BLANK):
            raise ReportError("the report is empty")
        source.seek(0)
        return _parser(format or detect(source))(source)
    except UnicodeDecodeError as error:
        raise ReportError(f"not valid {error.encoding} text: {error.reason}") from None
    except (RecursionError, MemoryError):
        raise ReportError("nested too deeply") from None
    except (ValueError, OverflowError, OSError) as error:
        raise ReportError(f"cannot be read: {error}") from None


def _parser(name: str) -> Callable[[BinaryIO], Report]:
    module, _, attribute = _PARSERS[name].partition(":")
    found: Callable[[BinaryIO], Report] = getattr(
        import_module(f"shipline.policy.gates.reports.{module}"), attribute
    )
    return found
