"""Reports of static analysis and secret scanners: SARIF 2.1.0 and `eslint --format json`."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import BinaryIO
from urllib.parse import unquote

from shipline.gates.reports.fields import Fields
from shipline.gates.reports.report import (
    Confidence,
    Finding,
    FindingLevel,
    Findings,
    Report,
    ReportError,
    ReportSubject,
    Severity,
    Tool,
    fingerprint_of,
    parse_time,
)
from shipline.gates.reports.streams import JsonReader
from shipline.values import replace

_EXTERNAL = "results are in external files, which are not read (section 3.15.2)"
_MESSAGE = 500  # characters kept
_SKIPPED_MEMBERS = frozenset(
    {"codeFlows", "graphs", "stacks", "relatedLocations", "fixes", "attachments", "threadFlows"}
)


@dataclass(frozen=True, slots=True)
class _SarifRule:
    level: FindingLevel = FindingLevel.WARNING
    severity: Severity = Severity.UNKNOWN
    confidence: Confidence | None = None


@dataclass(slots=True)
class _SarifRun:
    """A run while it is read: rules may follow the results that refer to them."""

    tool: Tool = field(default_factory=Tool)
    rules: dict[str, _SarifRule] = field(default_factory=dict)
    indexed_rules: list[str] = field(default_factory=list)
    results: list[tuple[Finding, int, bool]] = field(default_factory=list)
    has_results: bool = False
    gaps: list[str] = field(default_factory=list)
    revision: str = ""
    created: datetime | None = None


def parse_sarif(source: BinaryIO) -> Report:
    """A run without `results`, or whose tool did not succeed, is a gap.

    Source: SARIF 2.1.0 sections 3.14.23 (no results: nothing was computed), 3.20.14, 3.27.
    """
    reader = JsonReader(source)
    runs: list[_SarifRun] = []
    version, has_runs, external = "", False, False
    for key in reader.members():
        if key == "version":
            version = str(reader.value())
        elif key == "inlineExternalProperties":
            external = True
        elif key == "runs":
            has_runs = True
            for _ in reader.elements():
                runs.append(_run(reader))
    reader.finish()
    if not has_runs:
        raise ReportError("not a SARIF log: it has no runs")
    if version != "2.1.0":
        raise ReportError(f"SARIF version {version[:20]!r} is not 2.1.0")
    gaps = [gap for run in runs for gap in run.gaps]
    gaps += [_EXTERNAL] if external else []
    return Report(
        "sarif",
        Findings(tuple(finding for run in runs for finding in _findings(run))),
        ReportSubject(revision=next((run.revision for run in runs if run.revision), "")),
        max((run.created for run in runs if run.created), default=None),
        runs[0].tool if runs else Tool(),
        tuple(gaps if runs else ["the report has no runs"]),
    )


def _run(reader: JsonReader) -> _SarifRun:
    run = _SarifRun()
    for key in reader.members():
        if key == "tool":
            _tool(reader, run)
        elif key == "results" and reader.kind() != "n":  # null: none could be computed
            run.has_results = True
            for _ in reader.elements():
                _result(reader, run)
        elif key == "externalPropertyFileReferences":
            if "results" in Fields(reader.value(), key):
                run.gaps.append(_EXTERNAL)
        elif key == "invocations" and reader.kind() == "[":
            for _ in reader.elements():
                _invocation(reader, run)
        elif key == "versionControlProvenance":
            for version in Fields({key: reader.value()}, "run").children(key):
                run.revision = run.revision or version.text("revisionId")
    if not run.tool.name:
        raise ReportError("a run does not name its tool")
    if not run.has_results:
        run.gaps.append(f"{run.tool.name} produced no results")
    return run


def _tool(reader: JsonReader, run: _SarifRun) -> None:
    for key in reader.members():
        if key == "driver":
            name = version = ""
            for member in reader.members():
                if member == "name":
                    name = str(reader.value())
                elif member in ("semanticVersion", "version"):
                    version = version or str(reader.value())
                elif member == "rules":
                    _rules(reader, run)
            run.tool = Tool(name[:100], version[:50])
        elif key == "extensions" and reader.kind() == "[":
            for _ in reader.elements():
                for member in reader.members():
                    if member == "rules":
                        _rules(reader, run, indexed=False)


def _rules(reader: JsonReader, run: _SarifRun, *, indexed: bool = True) -> None:
    if reader.kind() != "[":
        return
    for _ in reader.elements():
        rule = Fields(reader.value(), "a rule")
        level = rule.child("defaultConfiguration").text("level")
        run.rules[rule.text("id")] = _SarifRule(
            _level(level) if level else FindingLevel.WARNING,
            _severity(rule.child("properties")),
            _confidence(rule.child("properties")),
        )
        if indexed:
            run.indexed_rules.append(rule.text("id"))


def _invocation(reader: JsonReader, run: _SarifRun) -> None:
    """After an error notification of the tool its results are incomplete, even if it claims
    success (SARIF 2.1.0, section 3.58.6).
    """
    value = Fields(reader.value(), "an invocation")
    run.created = run.created or parse_time(value.text("endTimeUtc") or value.text("startTimeUtc"))
    notes = [
        note.child("message").text("text")
        for kind in ("toolExecutionNotifications", "toolConfigurationNotifications")
        for note in value.children(kind)
        if note.text("level") == "error"
    ]
    if value.raw("executionSuccessful") is False or notes:
        what = "did not succeed" if value.raw("executionSuccessful") is False else "met an error"
        reason = next(filter(None, notes), "") or value.text("exitCodeDescription")
        run.gaps.append(f"the tool reports that it {what}" + (f": {reason}" if reason else ""))


def _result(reader: JsonReader, run: _SarifRun) -> None:
    members: dict[str, object] = {}
    for key in reader.members():
        if key not in _SKIPPED_MEMBERS:
            members[key] = reader.value()
    value = Fields(members, "a result").require("message")
    rule = value.child("rule")
    index = value.raw("ruleIndex") if "ruleIndex" in value else rule.raw("index")
    location = _location(value)
    message = value.child("message")
    finding = Finding(
        value.text("ruleId") or rule.text("id"),
        _level(value.text("level")) if "level" in value else FindingLevel.WARNING,
        (message.text("text") or message.text("markdown") or message.text("id"))[:_MESSAGE],
        *location,
        _severity(value.child("properties")),
        state=value.text("baselineState"),
        suppressed=_suppressed(value),
        confidence=_confidence(value.child("properties")),
    )
    finding = replace(finding, fingerprint=_fingerprint(value, finding))
    if value.text("kind") in ("", "fail"):
        run.results.append((finding, index if isinstance(index, int) else -1, "level" in value))
    elif value.text("kind") in ("open", "review"):
        finding = replace(finding, level=FindingLevel.NOTE)
        run.results.append((finding, index if isinstance(index, int) else -1, True))


def _findings(run: _SarifRun) -> list[Finding]:
    return [_with_rule(run, *result) for result in run.results]


def _with_rule(run: _SarifRun, finding: Finding, index: int, has_level: bool) -> Finding:
    name = finding.rule
    if name not in run.rules and 0 <= index < len(run.indexed_rules):
        name = run.indexed_rules[index]
    if name not in run.rules:
        name = name.rpartition("/")[0]  # a ruleId may have more components than the rule
    rule = run.rules.get(name, _SarifRule())
    return replace(
        finding,
        rule=finding.rule or name,
        level=finding.level if has_level else rule.level,
        severity=finding.severity or rule.severity,
        tool=run.tool.name,
        confidence=rule.confidence if finding.confidence is None else finding.confidence,
    )


def _location(value: Fields) -> tuple[str, int]:
    for location in value.children("locations"):
        physical = location.child("physicalLocation")
        path = _path(physical.child("artifactLocation").text("uri"))
        return path, physical.child("region").count("startLine")
    return "", 0


def _path(uri: str) -> str:
    return unquote(uri.removeprefix("file://")).removeprefix("./")


def _level(text: str) -> FindingLevel:
    try:
        return FindingLevel[text.upper()]
    except KeyError:
        raise ReportError(f"not a level: {text[:40]!r}") from None


def _severity(properties: Fields) -> Severity:
    score = properties.raw("security-severity")
    try:
        return (
            Severity.scored(float(score)) if isinstance(score, str | int | float) else Severity(0)
        )
    except (ValueError, OverflowError):
        return Severity.UNKNOWN


def _confidence(properties: Fields) -> Confidence | None:
    """The word that ZAP and Nuclei write; other tools write other things."""
    word = properties.raw("confidence")
    return Confidence.named(word) if isinstance(word, str) else None


def _suppressed(value: Fields) -> bool:
    suppressions = value.children("suppressions")
    return bool(suppressions) and all(
        suppression.text("status") in ("", "accepted") for suppression in suppressions
    )


def _fingerprint(value: Fields, finding: Finding) -> str:
    """The fingerprint of the tool, else one that does not change when lines move."""
    for key in ("fingerprints", "partialFingerprints"):
        fingerprints = value.child(key)
        if parts := _text_members(fingerprints):
            return fingerprint_of(*(f"{k}={v}" for k, v in parts.items()))
    region = value.children("locations")[0:1]
    snippet = (
        region[0].child("physicalLocation").child("region").child("snippet").text("text")
        if region
        else ""
    )
    return fingerprint_of(finding.message, snippet.strip())


def _text_members(value: Fields) -> Mapping[str, str]:
    return {key: value.text(key) for key in sorted(value) if key in value}


_LEVELS = {1: FindingLevel.WARNING, 2: FindingLevel.ERROR}
_COUNTS = {"errorCount": (2, "errors"), "warningCount": (1, "warnings")}
_KEPT = ("filePath", "messages", "suppressedMessages", *_COUNTS)


def parse_eslint(source: BinaryIO) -> Report:
    """A list of files with their messages. Raises ReportError for an empty list: nothing was
    linted, or another tool wrote it. A file that counts more than it lists is a gap.

    Source: ESLint, "Formatters Reference" (json) and "Node.js API" (LintResult, LintMessage).
    """
    reader = JsonReader(source)
    findings: list[Finding] = []
    gaps: list[str] = []
    files = 0
    for _ in reader.elements():
        files += 1
        findings += _file(reader, gaps)
    reader.finish()
    if not files:
        raise ReportError("no files were linted")
    return Report(
        "eslint",
        Findings(tuple(findings)),
        ReportSubject("source"),
        tool=Tool("eslint"),
        gaps=tuple(gaps),
    )


def _file(reader: JsonReader, gaps: list[str]) -> list[Finding]:
    members = {key: reader.value() for key in reader.members() if key in _KEPT}
    result = Fields(members, "a file").require("messages")
    path = result.name("filePath")
    messages = result.children("messages")
    for key, (severity, what) in _COUNTS.items():
        listed = sum(message.count("severity") == severity for message in messages)
        if key in result and result.count(key) > listed:
            gaps.append(f"it counts {result.count(key):,} {what} in {path} and lists {listed:,}")
    return [
        *(_finding(path, message) for message in messages),
        *(
            _finding(path, message, suppressed=True)
            for message in result.children("suppressedMessages")
        ),
    ]


def _finding(path: str, message: Fields, *, suppressed: bool = False) -> Finding:
    severity = message.count("severity")
    if severity not in _LEVELS:
        raise ReportError(f"not an ESLint severity: {severity}")
    text = message.text("message")
    rule = message.text("ruleId") or "fatal"  # parse errors have no rule
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
