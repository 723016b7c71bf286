"""`eslint --format json`."""

from __future__ import annotations

import hashlib
from typing import BinaryIO

from shipline.policy.gates.reports.fields import Fields
from shipline.policy.gates.reports.findings import Finding, Findings, Level
from shipline.policy.gates.reports.json_stream import JsonReader
from shipline.policy.gates.reports.report import Report, ReportError, Subject, Tool

_LEVELS = {1: Level.WARNING, 2: Level.ERROR}
_MESSAGE = 500  # characters that are kept
_KEPT = ("filePath", "messages", "suppressedMessages")


def parse(source: BinaryIO) -> Report:
    """A list of files with their messages. Raises ReportError for a list without files: nothing was
    linted, or another tool wrote it.

    Source: ESLint, "Formatters Reference" (json) and "Node.js API" (LintResult, LintMessage).
    """
    reader = JsonReader(source)
    found: list[Finding] = []
    files = 0
    for _ in reader.elements():
        files += 1
        found += _file(reader)
    reader.finish()
    if not files:
        raise ReportError("a list without files: eslint looked at none")
    return Report("eslint", Findings(tuple(found)), Subject("source"), tool=Tool("eslint"))


def _file(reader: JsonReader) -> list[Finding]:
    parts = {key: reader.value() for key in reader.members() if key in _KEPT}
    result = Fields(parts, "a file").having("messages")
    path = result.name("filePath")
    return [
        *(_finding(path, one) for one in result.children("messages")),
        *(_finding(path, one, suppressed=True) for one in result.children("suppressedMessages")),
    ]


def _finding(path: str, message: Fields, *, suppressed: bool = False) -> Finding:
    severity = message.count("severity")
    if severity not in _LEVELS:
        raise ReportError(f"not a severity of eslint: {severity}")
    text = message.text("message")
    rule = message.text("ruleId") or "fatal"  # what could not be parsed broke no rule
    fingerprint = hashlib.sha256(text.encode(errors="replace")).hexdigest()[:32]
    return Finding(
        rule,
        _LEVELS[severity],
        text[:_MESSAGE],
        path,
        message.count("line"),
        fingerprint=fingerprint,
        suppressed=suppressed,
        tool="eslint",
    )
