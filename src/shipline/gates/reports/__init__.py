"""Parsers for reports of other tools."""

from shipline.gates.reports.coverage import Coverage, FileCoverage, LineSet, Ratio
from shipline.gates.reports.parse import REPORT_FORMATS, formats_of, parse_report
from shipline.gates.reports.report import (
    Component,
    Content,
    Finding,
    FindingLevel,
    Findings,
    Report,
    ReportError,
    ReportSubject,
    Sbom,
    Severity,
    TestResults,
    Tool,
    Vex,
    VexStatement,
    Vulnerabilities,
    Vulnerability,
)

__all__ = [
    "REPORT_FORMATS",
    "Component",
    "Content",
    "Coverage",
    "FileCoverage",
    "Finding",
    "FindingLevel",
    "Findings",
    "LineSet",
    "Ratio",
    "Report",
    "ReportError",
    "ReportSubject",
    "Sbom",
    "Severity",
    "TestResults",
    "Tool",
    "Vex",
    "VexStatement",
    "Vulnerabilities",
    "Vulnerability",
    "formats_of",
    "parse_report",
]
