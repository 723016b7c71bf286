"""Parsers for reports of other tools."""

from shipline.gates.reports.coverage import Coverage, FileCoverage, LineSet, Ratio
from shipline.gates.reports.parse import REPORT_FORMATS, formats_of, parse_report
from shipline.gates.reports.report import (
    Component,
    Confidence,
    Content,
    Finding,
    FindingLevel,
    Findings,
    Report,
    ReportError,
    Sbom,
    Severity,
    TestResults,
    Tool,
    Vex,
    VexStatement,
    Vulnerabilities,
    Vulnerability,
    WebFindings,
    target_of,
)
