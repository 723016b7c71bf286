"""Verdicts as text, JSON, Markdown, SARIF and GitHub annotations; findings for GitLab."""

from __future__ import annotations

import hashlib
import json
import posixpath
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from shipline.gates.reports import Finding, FindingLevel, Severity
from shipline.gates.statements import summary
from shipline.gates.verdict import Check, Outcome, Verdict, Verdicts
from shipline.observe import clean

OUTPUT_FORMATS = ("text", "json", "markdown", "sarif", "github")
_HEADINGS = ("GATE", "OUTCOME", "CHECK", "MEASURED", "LIMIT", "REASON")
_DETAILS_SHOWN = 20  # details of a check in text
_LEVELS = {Outcome.FAIL: "error", Outcome.ERROR: "error", Outcome.INCOMPLETE: "warning"}
_NOT_PASSED = (Outcome.FAIL, Outcome.ERROR, Outcome.INCOMPLETE)


def render(verdicts: Verdicts, format: str) -> str:
    """The verdicts in one of OUTPUT_FORMATS, without a final newline. KeyError for others."""
    renderers = {
        "text": as_text,
        "json": as_json,
        "markdown": as_markdown,
        "sarif": as_sarif,
        "github": as_github,
    }
    return renderers[format](verdicts)


_BY_SEVERITY = {
    Severity.NEGLIGIBLE: "info",
    Severity.LOW: "minor",
    Severity.MEDIUM: "major",
    Severity.HIGH: "critical",
    Severity.CRITICAL: "blocker",
}
_BY_LEVEL = {FindingLevel.ERROR: "major", FindingLevel.WARNING: "minor"}


def as_code_quality(findings: Iterable[Finding]) -> list[dict[str, Any]]:
    """The findings that are in files of the repository, as GitLab shows them on merge requests. No
    two fingerprints are equal, and none changes when lines move, except that equal findings in one
    file are told apart by their order.

    Source: GitLab, "Code Quality", section "Code Quality report format".
    """
    seen: Counter[str] = Counter()
    entries = []
    for finding in sorted(findings, key=lambda one: (one.path, one.line, one.rule)):
        path = posixpath.normpath(finding.path) if finding.path else ""
        if path in ("", ".", "..") or path.startswith(("/", "../")) or "://" in finding.path:
            continue
        key = f"{finding.tool} {finding.rule} {path} {finding.fingerprint}"
        mark = f"{key} {seen[key]}".encode(errors="replace")
        seen[key] += 1
        entries.append(
            {
                "description": finding.message or finding.rule or finding.tool,
                "check_name": finding.rule or finding.tool,
                "fingerprint": hashlib.sha256(mark).hexdigest(),
                "severity": _BY_SEVERITY.get(finding.severity)
                or _BY_LEVEL.get(finding.level, "info"),
                "location": {"path": path, "lines": {"begin": max(1, finding.line)}},
            }
        )
    return entries


def as_text(verdicts: Verdicts) -> str:
    """A table, then the details of each check that did not pass."""
    rows = [_HEADINGS, *(tuple(map(clean, row)) for row in _rows(verdicts))]
    widths = [max(map(len, column)) for column in zip(*(row[:-1] for row in rows), strict=True)]
    lines = [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]])
        for row in rows
    ]
    for verdict in verdicts:
        lines += map(clean, _details(verdict))
    lines += [clean(f"warning: {text}") for text in _warnings(verdicts)]
    return "\n".join([*lines, "", _summary_line(verdicts)])


def as_json(verdicts: Verdicts) -> str:
    """The summary, which also serves later runs as their baseline."""
    return json.dumps(summary(verdicts), indent=2)


def as_markdown(verdicts: Verdicts) -> str:
    """A job summary for GitHub and similar CI systems."""
    titles = {"pass": "passed", "fail": "refused", "undecided": "undecided"}
    lines = [f"### Quality gates: {titles[verdicts.outcome]}", ""]
    lines += ["| Gate | Outcome | Measured | Limit | Reason |", "|---|---|---|---|---|"]
    for row in _rows(verdicts):
        gate, outcome, name, measured, limit, reason = map(_markdown, row)
        lines.append(f"| {gate} / {name} | **{outcome}** | {measured} | {limit} | {reason} |")
    for verdict, check in _checks(verdicts):
        if check.outcome in _NOT_PASSED and (check.details or check.hint):
            lines += [
                "",
                f"<details><summary>{_markdown(verdict.gate)}: {_markdown(check.name)}</summary>",
            ]
            lines += ["", *(f"- {_markdown(detail)}" for detail in check.details[:_DETAILS_SHOWN])]
            lines += [f"\n{_markdown(check.hint)}"] if check.hint else []
            lines += ["", "</details>"]
    lines += [f"\n> {_markdown(text)}" for text in _warnings(verdicts)]
    return "\n".join(lines)


def as_github(verdicts: Verdicts) -> str:
    """Workflow commands that create annotations, at file and line where they are known."""
    lines = []
    for verdict, check in _checks(verdicts):
        if check.outcome not in _NOT_PASSED:
            continue
        level = "warning" if not verdict.blocks else "error"
        title = f"title={_property(f'{verdict.gate}: {check.name}')}"
        lines.append(f"::{level} {title}::{_message(_with_hint(check))}")
        for location in check.locations:
            if location.path:
                at = f"file={_property(location.path)},line={max(1, location.line)}"
                lines.append(f"::{level} {at},{title}::{_message(location.text)}")
    lines += [f"::warning::{_message(text)}" for text in _warnings(verdicts)]
    return "\n".join(lines)


def as_sarif(verdicts: Verdicts) -> str:
    """One rule for each check, one result for each location, or one for a check without any."""
    rules: dict[str, dict[str, Any]] = {}
    results = []
    for verdict, check in _checks(verdicts):
        rule = f"{verdict.gate}/{check.name.replace(' ', '-')}"
        rules.setdefault(rule, {"id": rule, "shortDescription": {"text": f"{verdict.gate} gate"}})
        if check.outcome in _NOT_PASSED:
            results += [*_results(rule, check)]
    driver = {"name": "shipline", "rules": [*rules.values()]}
    document = {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{"tool": {"driver": driver}, "results": results}],
    }
    return json.dumps(document, indent=2)


def _results(rule: str, check: Check) -> Iterator[dict[str, Any]]:
    level = _LEVELS[check.outcome]
    locations = [location for location in check.locations if location.path]
    if not locations:
        yield {"ruleId": rule, "level": level, "message": {"text": _with_hint(check)}}
    for location in locations:
        physical: dict[str, Any] = {"artifactLocation": {"uri": location.path}}
        if location.line:
            physical["region"] = {"startLine": location.line}
        yield {
            "ruleId": rule,
            "level": level,
            "message": {"text": location.text or check.reason},
            "locations": [{"physicalLocation": physical}],
        }


def _rows(verdicts: Verdicts) -> Iterator[tuple[str, ...]]:
    for verdict, check in _checks(verdicts):
        outcome = check.outcome.value
        if check.outcome.undecided and not verdict.blocks:
            outcome += " (warning)"
        yield verdict.gate, outcome, check.name, check.measured, check.limit, check.reason


def _checks(verdicts: Verdicts) -> Iterator[tuple[Verdict, Check]]:
    for verdict in verdicts:
        for check in verdict.checks:
            yield verdict, check


def _details(verdict: Verdict) -> Iterator[str]:
    for check in verdict.checks:
        if check.outcome not in (*_NOT_PASSED, Outcome.WAIVED) or not (check.details or check.hint):
            continue
        yield ""
        yield f"{verdict.gate}: {check.name if check.details else check.reason or check.name}"
        yield from (f"  {detail}" for detail in check.details[:_DETAILS_SHOWN])
        if len(check.details) > _DETAILS_SHOWN:
            yield f"  and {len(check.details) - _DETAILS_SHOWN} more (all with --format json)"
        if check.hint:
            yield f"  to fix it: {check.hint}"


def _warnings(verdicts: Verdicts) -> list[str]:
    of_gates = [f"{verdict.gate}: {text}" for verdict in verdicts for text in verdict.warnings]
    return [*of_gates, *verdicts.warnings]


def _summary_line(verdicts: Verdicts) -> str:
    counts = dict.fromkeys(Outcome, 0)
    for verdict in verdicts:
        counts[verdict.outcome] += 1
    listed = ", ".join(f"{count} {outcome}" for outcome, count in counts.items() if count)
    words = {"pass": "may go on", "fail": "is refused", "undecided": "cannot be decided"}
    return f"The release {words[verdicts.outcome]}: {listed or 'no gate was judged'}."


def _with_hint(check: Check) -> str:
    return f"{check.reason}. {check.hint}".removesuffix(". ") if check.hint else check.reason


def _markdown(text: str) -> str:
    """Text of reports is untrusted: it must not become markup."""
    cleaned = clean(" ".join(text.split())).replace("&", "&amp;").replace("<", "&lt;")
    for character in "\\`*_[]|!":
        cleaned = cleaned.replace(character, f"\\{character}")
    return cleaned


def _message(text: str) -> str:
    cleaned = "\n".join(map(clean, text.splitlines()))
    return cleaned.replace("%", "%25").replace("\n", "%0A")


def _property(text: str) -> str:
    return _message(text).replace(":", "%3A").replace(",", "%2C")
