"""Gates and reports from the command line, which override those of the configuration."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from shipline.errors import UsageError
from shipline.gates.report_files import read_report
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

_RULE_CLASSES: dict[str, type[ReportGate] | type[ImageGate]] = {**REPORT_GATES, "image": ImageGate}
_KIND_BY_CONTENT: dict[type[Content], str] = {
    Coverage: "coverage",
    TestResults: "tests",
    Findings: "analysis",
    Vulnerabilities: "vulnerabilities",
    Sbom: "sbom",
}
_KIND_BY_FORMAT = {
    format: kind for content, kind in _KIND_BY_CONTENT.items() for format in formats_of(content)
}


@dataclass(slots=True)
class GateOptions:
    """Report files and rules from the command line, by kind of gate.

    `unrecognized` are reports that belong to no kind of gate.
    """

    reports: dict[str, list[str]] = field(default_factory=dict)
    rules: dict[str, dict[str, Any]] = field(default_factory=dict)
    unrecognized: list[str] = field(default_factory=list)

    def add_report(self, kind: str, path: str) -> None:
        self.reports.setdefault(kind, []).append(path)

    def set_rule(self, kind: str, rule: str, value: object) -> None:
        """Set a rule, unless the option was not given (None, False or empty)."""
        if value is not None and value != () and value is not False:
            self.rules.setdefault(kind, {})[rule] = value

    def add(self, text: str, root: Path) -> None:
        """Add a report, `[GATE=][FORMAT:]PATH`, to the kind of gate of its format or content.

        Raises UsageError for an unknown format.
        """
        name, equals, value = text.partition("=")
        if equals and ":" not in name and "/" not in name:
            self.add_report(name, value)
            return
        format, path = split_format(text)
        if not format and ":" in path and not (root / path).exists():
            prefix = path.partition(":")[0]
            raise UsageError(
                f"--report: {prefix!r} is not a format", hint=f"formats are {', '.join(FORMATS)}"
            )
        kind = _KIND_BY_FORMAT.get(format) if format else _detect_kind(path, root)
        if kind is None:
            self.unrecognized.append(path)
        else:
            self.add_report(kind, text)

    def apply_to(self, section: GatesSection) -> tuple[GatesSection, Mapping[str, list[str]]]:
        """The section with these rules, and the report files by the name of their gate.

        Raises UsageError if several gates of a kind could be meant, ConfigError for invalid rules.
        """
        reports: dict[str, list[str]] = {}
        known = {name: kind for name, kind, _ in section.gates()}
        for kind in [*self.rules, *(kind for kind in self.reports if kind not in self.rules)]:
            paths = self.reports.get(kind)
            if kind in known and kind not in _RULE_CLASSES:  # the name of a gate
                reports[kind] = paths or []
                continue
            if kind not in _RULE_CLASSES:
                raise UsageError(f"there is no gate called {kind!r}")
            rules = _single_gate(section, kind)
            changed = replace(rules, **self.rules.get(kind, {}))
            section = replace(section, **{kind: changed})
            if paths:
                reports[changed.name or kind] = paths
        return section, reports


def unrecognized_verdict(paths: Iterable[str], root: Path) -> Verdict:
    """The verdict for reports that belong to no gate."""
    checks = []
    for path in paths:
        file = read_report(root / path, path)
        outcome = Outcome.INCOMPLETE if file.missing else Outcome.ERROR
        reason = file.problem or f"{path}: no gate reads such a report ({file.source.format})"
        hint = "write the report first, or give its kind: --coverage, --tests, --analysis, ..."
        checks.append(Check("report", outcome, reason, hint=file.hint or hint))
    return Verdict("report", "report", tuple(checks))


def _single_gate(section: GatesSection, kind: str) -> Any:
    rules = getattr(section, kind)
    if rules is None:
        return _RULE_CLASSES[kind]()
    if not isinstance(rules, tuple):
        return rules
    if len(rules) != 1:
        names = ", ".join(gate.name or kind for gate in rules)
        raise UsageError(
            f"there are several gates for {kind}: {names}",
            hint=f"write --report {rules[0].name or kind}=PATH",
        )
    return rules[0]


def _detect_kind(path: str, root: Path) -> str | None:
    names: Iterable[str] = [path]
    if glob.has_magic(path):
        names = sorted(glob.glob(path, root_dir=root, recursive=True))
    for name in names:
        if report := read_report(root / name, name).report:
            return _KIND_BY_CONTENT.get(type(report.content))
    return None
