"""Verdicts for people and for other programs: text, JSON, Markdown, SARIF, GitHub annotations."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from shipline.gates.statements import summary
from shipline.gates.verdict import Check, Outcome, Verdict, Verdicts
from shipline.observe import clean

FORMATS = ("text", "json", "markdown", "sarif", "github")
_HEADINGS = ("GATE", "OUTCOME", "CHECK", "MEASURED", "LIMIT", "REASON")
_SHOWN = 20  # details of a check in text
_LEVELS = {Outcome.FAIL: "error", Outcome.ERROR: "error", Outcome.INCOMPLETE: "warning"}
_BAD = (Outcome.FAIL, Outcome.ERROR, Outcome.INCOMPLETE)


def render(verdicts: Verdicts, format: str) -> str:
    """The verdicts in one of FORMATS, without a line end. Raises KeyError for another one."""
    forms = {
        "text": as_text,
        "json": as_json,
        "markdown": as_markdown,
        "sarif": as_sarif,
        "github": as_github,
    }
    return forms[format](verdicts)


def as_text(verdicts: Verdicts) -> str:
    """A table, then what is behind each check that did not pass."""
    rows = [_HEADINGS, *(tuple(map(clean, row)) for row in _rows(verdicts))]
    widths = [max(map(len, column)) for column in zip(*(row[:-1] for row in rows), strict=True)]
    lines = [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]])
        for row in rows
    ]
    for verdict in verdicts:
        lines += map(clean, _behind(verdict))
    lines += [clean(f"warning: {text}") for text in _warnings(verdicts)]
    return "\n".join([*lines, "", _end(verdicts)])


def as_json(verdicts: Verdicts) -> str:
    """The summary that is also the baseline of later runs."""
    return json.dumps(summary(verdicts), indent=2)


def as_markdown(verdicts: Verdicts) -> str:
    """A job summary."""
    titles = {"pass": "passed", "fail": "refused", "undecided": "undecided"}
    lines = [f"### Quality gates: {titles[verdicts.outcome]}", ""]
    lines += ["| Gate | Outcome | Measured | Limit | Reason |", "|---|---|---|---|---|"]
    for row in _rows(verdicts):
        gate, outcome, name, measured, limit, reason = map(_cell, row)
        lines.append(f"| {gate} / {name} | **{outcome}** | {measured} | {limit} | {reason} |")
    for verdict, check in _checks(verdicts):
        if check.outcome in _BAD and (check.details or check.hint):
            lines += ["", f"<details><summary>{_cell(verdict.gate)}: {_cell(check.name)}</summary>"]
            lines += ["", *(f"- {_cell(one)}" for one in check.details[:_SHOWN])]
            lines += [f"\n{_cell(check.hint)}"] if check.hint else []
            lines += ["", "</details>"]
    lines += [f"\n> {_cell(text)}" for text in _warnings(verdicts)]
    return "\n".join(lines)


def as_github(verdicts: Verdicts) -> str:
    """Workflow commands that make annotations, at the line where there is one."""
    lines = []
    for verdict, check in _checks(verdicts):
        if check.outcome not in _BAD:
            continue
        level = "warning" if not verdict.blocks else "error"
        title = f"title={_property(f'{verdict.gate}: {check.name}')}"
        lines.append(f"::{level} {title}::{_message(_told(check))}")
        for place in check.places:
            if place.path:
                at = f"file={_property(place.path)},line={max(1, place.line)}"
                lines.append(f"::{level} {at},{title}::{_message(place.text)}")
    lines += [f"::warning::{_message(text)}" for text in _warnings(verdicts)]
    return "\n".join(lines)


def as_sarif(verdicts: Verdicts) -> str:
    """One rule for each check, one result for each place, or for the check where it has none."""
    rules: dict[str, dict[str, Any]] = {}
    results = []
    for verdict, check in _checks(verdicts):
        rule = f"{verdict.gate}/{check.name.replace(' ', '-')}"
        rules.setdefault(rule, {"id": rule, "shortDescription": {"text": f"{verdict.gate} gate"}})
        if check.outcome in _BAD:
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
    places = [place for place in check.places if place.path]
    if not places:
        yield {"ruleId": rule, "level": level, "message": {"text": _told(check)}}
    for place in places:
        physical: dict[str, Any] = {"artifactLocation": {"uri": place.path}}
        if place.line:
            physical["region"] = {"startLine": place.line}
        yield {
            "ruleId": rule,
            "level": level,
            "message": {"text": place.text or check.reason},
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


def _behind(verdict: Verdict) -> Iterator[str]:
    for check in verdict.checks:
        if check.outcome not in (*_BAD, Outcome.WAIVED) or not (check.details or check.hint):
            continue
        yield ""
        yield f"{verdict.gate}: {check.name}"
        yield from (f"  {one}" for one in check.details[:_SHOWN])
        if len(check.details) > _SHOWN:
            yield f"  and {len(check.details) - _SHOWN} more: --format json shows all"
        if check.hint:
            yield f"  to fix it: {check.hint}"


def _warnings(verdicts: Verdicts) -> list[str]:
    own = [f"{one.gate}: {text}" for one in verdicts for text in one.warnings]
    return [*own, *verdicts.warnings]


def _end(verdicts: Verdicts) -> str:
    counts = dict.fromkeys(Outcome, 0)
    for one in verdicts:
        counts[one.outcome] += 1
    told = ", ".join(f"{count} {outcome}" for outcome, count in counts.items() if count)
    words = {"pass": "may go on", "fail": "is refused", "undecided": "cannot be decided"}
    return f"The release {words[verdicts.outcome]}: {told or 'no gate was judged'}."


def _told(check: Check) -> str:
    return f"{check.reason}. {check.hint}".removesuffix(". ") if check.hint else check.reason


def _cell(text: str) -> str:
    """Reports come from outside: no text of theirs may become markup."""
    plain = clean(" ".join(text.split())).replace("&", "&amp;").replace("<", "&lt;")
    for character in "\\`*_[]|!":
        plain = plain.replace(character, f"\\{character}")
    return plain


def _message(text: str) -> str:
    plain = "\n".join(map(clean, text.splitlines()))
    return plain.replace("%", "%25").replace("\n", "%0A")


def _property(text: str) -> str:
    return _message(text).replace(":", "%3A").replace(",", "%2C")
