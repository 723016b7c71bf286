"""Reports of other tools, read into values."""

from shipline.policy.gates.reports.coverage import Coverage, FileCoverage, LineSet, Ratio
from shipline.policy.gates.reports.findings import Finding, Findings, Level
from shipline.policy.gates.reports.parse import FORMATS, formats_of, parse_report
from shipline.policy.gates.reports.report import Content, Report, ReportError, Subject, Tool
from shipline.policy.gates.reports.sbom import Component, Sbom
from shipline.policy.gates.reports.severity import Severity
from shipline.policy.gates.reports.tests import TestResults
from shipline.policy.gates.reports.vex import Vex, VexStatement
from shipline.policy.gates.reports.vulnerabilities import Vulnerabilities, Vulnerability

__all__ = [
    "FORMATS",
    "Component",
    "Content",
    "Coverage",
    "FileCoverage",
    "Finding",
    "Findings",
    "Level",
    "LineSet",
    "Ratio",
    "Report",
    "ReportError",
    "Sbom",
    "Severity",
    "Subject",
    "TestResults",
    "Tool",
    "Vex",
    "VexStatement",
    "Vulnerabilities",
    "Vulnerability",
    "formats_of",
    "parse_report",
]
