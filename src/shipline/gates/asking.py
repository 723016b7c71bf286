"""Gates and reports named on the command line, laid over those of the configuration."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from shipline.errors import UsageError
from shipline.gates.evidence import read
from shipline.gates.reports import (
    FORMATS,
    Content,
    Coverage,
    Findings,
    Sbom,
    TestResults,
    Vulnerabilities,
    formats_of,
)
from shipline.gates.section import (
    REPORT_GATES,
    GatesSection,
    ImageGate,
    ReportGate,
    split_format,
)
from shipline.gates.verdict import Check, Outcome, Verdict

_RULES: dict[str, type[ReportGate] | type[ImageGate]] = {**REPORT_GATES, "image": ImageGate}
_KINDS: dict[type[Content], str] = {
    Coverage: "coverage",
    TestResults: "tests",
    Findings: "analysis",
    Vulnerabilities: "vulnerabilities",
    Sbom: "sbom",
}
_KIND_OF = {format: kind for content, kind in _KINDS.items() for format in formats_of(content)}


@dataclass(slots=True)
class GateOptions:
    """What is asked for, by kind of gate: report files, and rules other than the section's."""

    reports: dict[str, list[str]] = field(default_factory=dict)
    rules: dict[str, dict[str, Any]] = field(default_factory=dict)
    unclear: list[str] = field(default_factory=list)

    def add_report(self, kind: str, path: str) -> None:
        self.reports.setdefault(kind, []).append(path)

    def set_rule(self, kind: str, rule: str, value: object) -> None:
        """A rule that was given; None and empty ones were not."""
        if value is not None and value != () and value is not False:
            self.rules.setdefault(kind, {})[rule] = value

    def route(self, text: str, root: Path) -> None:
        """Find the kind of gate for `[GATE=]FORMAT:PATH` or PATH, by its format or its content.

        What cannot be told is kept in `unclear`.
        """
        name, equals, rest = text.partition("=")
        if equals and ":" not in name and "/" not in name:
            self.add_report(name, rest)
            return
        format, path = split_format(text)
        if not format and ":" in path and not (root / path).exists():
            word = path.partition(":")[0]
            raise UsageError(
                f"--report: {word!r} is no format", hint=f"formats are {', '.join(FORMATS)}"
            )
        kind = _KIND_OF.get(format) if format else _kind_of(path, root)
        if kind is None:
            self.unclear.append(path)
        else:
            self.add_report(kind, text)

    def laid_over(self, section: GatesSection) -> tuple[GatesSection, Mapping[str, list[str]]]:
        """The section with what is asked for, and the report files by the name of the gate.

        Raises UsageError where several gates of a kind could be meant, ConfigError for rules that
        cannot be.
        """
        reports: dict[str, list[str]] = {}
        known = {name: kind for name, kind, _ in section.gates()}
        for kind in [*self.rules, *(kind for kind in self.reports if kind not in self.rules)]:
            paths = self.reports.get(kind)
            if kind in known and kind not in _RULES:  # a gate by its own name
                reports[kind] = paths or []
                continue
            if kind not in _RULES:
                raise UsageError(f"there is no gate called {kind!r}")
            rules = _only(section, kind)
            changed = replace(rules, **self.rules.get(kind, {}))
            section = replace(section, **{kind: changed})
            if paths:
                reports[changed.name or kind] = paths
        return section, reports


def unclear_verdict(paths: Iterable[str], root: Path) -> Verdict:
    """The verdict for reports of which no gate is known."""
    checks = []
    for path in paths:
        found = read(root / path, path)
        outcome = Outcome.INCOMPLETE if found.missing else Outcome.ERROR
        reason = found.problem or f"{path}: no gate judges such a report ({found.source.format})"
        hint = "write the report before, or name its kind: --coverage, --tests, --analysis, ..."
        checks.append(Check("report", outcome, reason, hint=found.hint or hint))
    return Verdict("report", "report", tuple(checks))


def _only(section: GatesSection, kind: str) -> Any:
    found = getattr(section, kind)
    if found is None:
        return _RULES[kind]()
    if not isinstance(found, tuple):
        return found
    if len(found) != 1:
        names = ", ".join(one.name or kind for one in found)
        raise UsageError(
            f"there are several gates for {kind}: {names}",
            hint=f"write --report {found[0].name or kind}=PATH",
        )
    return found[0]


def _kind_of(path: str, root: Path) -> str | None:
    names: Iterable[str] = [path]
    if glob.has_magic(path):
        names = sorted(glob.glob(path, root_dir=root, recursive=True))
    for name in names:
        if report := read(root / name, name).report:
            return _KINDS.get(type(report.content))
    return None
