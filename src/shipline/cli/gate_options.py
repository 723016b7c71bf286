"""The options of `shipline gate`: a group for each kind of gate. They override the rules and
reports of shipline.yaml.
"""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import click

from shipline.cli.options import DIRECTORY
from shipline.cli.signing import image_option, password_option
from shipline.errors import InvalidFlag, UsageError
from shipline.gates import HOOKS, OUTPUT_FORMATS, Severity
from shipline.gates.report_files import read_report
from shipline.gates.reports import (
    REPORT_FORMATS,
    Content,
    Coverage,
    Findings,
    Sbom,
    TestResults,
    Vulnerabilities,
    WebFindings,
    formats_of,
)
from shipline.gates.section import REPORT_GATES, GatesSection, ImageGate, ReportGate, split_format
from shipline.gates.verdict import Check, Outcome, Verdict
from shipline.units import ByteSize, Duration
from shipline.values import replace

_RULE_CLASSES: dict[str, type[ReportGate] | type[ImageGate]] = {**REPORT_GATES, "image": ImageGate}
_KIND_BY_CONTENT: dict[type[Content], str] = {
    Coverage: "coverage",
    TestResults: "tests",
    Findings: "analysis",
    WebFindings: "dast",
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
            raise InvalidFlag(
                f"--report: {prefix!r} is not a format",
                hint=f"formats are {', '.join(REPORT_FORMATS)}",
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
                raise UsageError(f"there is no gate called {kind!r}", code="gate-unknown")
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
            code="gate-unknown",
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


F = TypeVar("F", bound=Callable[..., Any])
_REPORTS = ("coverage", "tests", "analysis", "secrets", "dast", "vulnerabilities", "sbom")
_RULES = {
    "coverage_min": ("coverage", "min"),
    "branch_min": ("coverage", "branch_min"),
    "patch_min": ("coverage", "patch_min"),
    "patch_floor": ("coverage", "patch_floor"),
    "max_drop": ("coverage", "max_drop"),
    "min_tests": ("tests", "min_tests"),
    "max_skipped": ("tests", "max_skipped"),
    "level": ("analysis", "level"),
    "dast_fail_on": ("dast", "fail_on"),
    "target": ("dast", "target"),
    "fail_on": ("vulnerabilities", "fail_on"),
    "max_vulnerabilities": ("vulnerabilities", "max"),
    "max_database_age": ("vulnerabilities", "max_database_age"),
    "vex": ("vulnerabilities", "vex"),
    "min_components": ("sbom", "min_components"),
    "deny_license": ("sbom", "deny_licenses"),
    "max_size": ("image", "max_size"),
    "max_layers": ("image", "max_layers"),
    "non_root": ("image", "non_root"),
}


@dataclass(frozen=True, slots=True)
class GateFlags:
    """The values of the options; `rules` are single rules by the name of their option."""

    directory: Path
    path: Path | None
    reports: tuple[str, ...]
    of_kind: dict[str, tuple[str, ...]]
    rules: dict[str, Any]
    only_fixed: bool
    new_only: bool
    changed_lines: bool
    max_age: Duration | None
    on_incomplete: Literal["fail", "warn"] | None
    image: str
    revision: str
    base: str
    merge_check: str
    baseline: Path | None
    baseline_image: str
    baseline_keys: tuple[str, ...]
    waivers: tuple[Path, ...]
    environment: str
    now: datetime | None
    form: str
    output: Path | None
    summary: str | None
    early: bool
    hook: str | None
    run: bool
    attest: bool
    keys: tuple[str, ...]
    password_file: Path | None
    allow_http_registry: bool

    def apply_to(self, section: GatesSection) -> GatesSection:
        """The section with the options for all gates."""
        added = tuple(str(path.absolute()) for path in self.waivers)
        return replace(
            section,
            waiver_files=(*section.waiver_files, *added),
            max_age=self.max_age or section.max_age,
            on_incomplete=self.on_incomplete or section.on_incomplete,
        )

    def options(self, root: Path, section: GatesSection) -> GateOptions:
        """The gates and reports of the command line."""
        options = GateOptions()
        for kind, paths in self.of_kind.items():
            for path in paths:
                options.add_report(kind, path)
        for text in self.reports:
            options.add(text, root)
        for name, value in self.rules.items():
            options.set_rule(*_RULES[name], value)
        options.set_rule("vulnerabilities", "fix", "available" if self.only_fixed else None)
        for kind in ("analysis", "secrets", "dast", "vulnerabilities"):
            if kind in options.reports or getattr(section, kind) is not None:
                options.set_rule(kind, "new_only", self.new_only)
                if kind in ("analysis", "secrets"):
                    options.set_rule(kind, "changed_lines_only", self.changed_lines)
        return options


def _moment(ctx: object, param: object, value: str | None) -> datetime | None:
    if value is None:
        return None
    try:
        values = datetime.fromisoformat(value)
    except ValueError:
        raise InvalidFlag(f"--now: not a time: {value!r}", hint="write 2026-01-31T12:00Z") from None
    return (values if values.tzinfo else values.replace(tzinfo=UTC)).astimezone(UTC)


_PATH = click.Path(path_type=Path)
_PERCENT = click.FloatRange(0, 100)
_COUNT = click.IntRange(0)


def _many(name: str, help: str, metavar: str = "REPORT") -> Callable[[F], F]:
    return click.option(name, multiple=True, metavar=metavar, help=help)


_OPTIONS = (
    DIRECTORY,
    click.option("-f", "--file", "path", type=_PATH, metavar="PATH", help="The configuration."),
    _many("--report", "A report of any kind: PATH, FORMAT:PATH or GATE=PATH.", "[FORMAT:]PATH"),
    _many("--coverage", "Coverage: coverage.py, Cobertura, JaCoCo, Clover, lcov, Istanbul, Go."),
    click.option("--coverage-min", type=_PERCENT, help="Minimum line coverage, in percent (80)."),
    click.option("--branch-min", type=_PERCENT, help="Minimum branch coverage, in percent."),
    click.option(
        "--patch-min", type=_PERCENT, help="Minimum coverage of changed lines, in percent."
    ),
    click.option("--patch-floor", type=_COUNT, help="Smaller changes are not judged (20 lines)."),
    click.option("--max-drop", type=float, help="Maximum drop below the baseline, in points."),
    _many("--tests", "Test results: JUnit."),
    click.option("--min-tests", type=_COUNT, help="Minimum number of tests (1)."),
    click.option("--max-skipped", type=_COUNT, help="Maximum number of skipped tests."),
    _many("--analysis", "Static analysis: SARIF, or ESLint's JSON."),
    click.option("--level", type=click.Choice(["error", "warning", "note", "none"])),
    _many("--secrets", "Secrets: SARIF; a finding of any level counts."),
    _many("--dast", "Dynamic analysis: ZAP's JSON, Nuclei's JSON lines, SARIF."),
    click.option(
        "--dast-fail-on",
        type=Severity.parse,
        metavar="SEVERITY",
        help="The lowest severity of --dast that counts (medium).",
    ),
    click.option("--target", metavar="URL", help="The service that --dast must be about."),
    _many("--vulnerabilities", "Trivy, Grype, OSV, npm audit, pip-audit."),
    click.option(
        "--fail-on",
        type=Severity.parse,
        metavar="SEVERITY",
        help="The lowest severity that counts.",
    ),
    click.option("--max-vulnerabilities", type=_COUNT, help="Vulnerabilities to tolerate (0)."),
    click.option("--only-fixed", is_flag=True, help="Count only those that have a fix."),
    click.option(
        "--max-database-age",
        type=Duration.parse,
        metavar="DURATION",
        help="The oldest database (5d).",
    ),
    _many("--vex", "OpenVEX: vulnerabilities that do not affect the image.", "FILE"),
    _many("--sbom", "CycloneDX or SPDX."),
    click.option("--min-components", type=_COUNT, help="Minimum number of packages (1)."),
    _many("--deny-license", "A licence that is not allowed, as a glob.", "LICENCE"),
    click.option("--image", default="", metavar="NAME@DIGEST", help="The image that is judged."),
    click.option(
        "--max-size", type=ByteSize.parse, metavar="SIZE", help="Maximum compressed size: 200MB."
    ),
    click.option("--max-layers", type=_COUNT, help="Maximum number of layers."),
    click.option("--non-root", is_flag=True, help="The user of the image must not be root."),
    click.option(
        "--new-only", is_flag=True, help="Count only findings that are not in the baseline."
    ),
    click.option(
        "--changed-lines-only",
        "changed_lines",
        is_flag=True,
        help="Count only findings on changed lines.",
    ),
    click.option(
        "--max-age",
        type=Duration.parse,
        metavar="DURATION",
        help="The oldest report that counts: 24h.",
    ),
    click.option(
        "--on-incomplete",
        type=click.Choice(["fail", "warn"]),
        help="What to do if a gate cannot decide.",
    ),
    click.option("--revision", default="", metavar="SHA", help="The commit that is judged (HEAD)."),
    click.option("--base", default="", metavar="REF", help="Changed lines are those since REF."),
    click.option("--merge-check", default="", metavar="REF", help="Judge a merge into REF."),
    click.option(
        "--baseline",
        type=_PATH,
        metavar="FILE",
        help="A summary of an earlier run to compare with.",
    ),
    click.option(
        "--baseline-image", default="", metavar="NAME", help="The image with the baseline."
    ),
    click.option(
        "--baseline-key",
        "baseline_keys",
        multiple=True,
        metavar="KEY",
        help="The public key that verifies it.",
    ),
    click.option("--waivers", type=_PATH, multiple=True, metavar="FILE", help="A file of waivers."),
    click.option(
        "--environment",
        default="",
        metavar="NAME",
        help="The environment, for waivers and gates that are limited to some.",
    ),
    click.option("--now", callback=_moment, metavar="TIME", help="Judge as if it were TIME."),
    click.option("--json", "as_json", is_flag=True, help="The same as --format json."),
    click.option(
        "--format", "form", type=click.Choice(OUTPUT_FORMATS), default="text", show_default=True
    ),
    click.option(
        "-o",
        "--output",
        type=_PATH,
        metavar="FILE",
        help="Write the formatted output to this file.",
    ),
    click.option("--summary", metavar="FILE", help="Append a summary in Markdown."),
    click.option("--early", is_flag=True, help="Run only the gates with `early: true`."),
    click.option("--hook", type=click.Choice(HOOKS), hidden=True),
    click.option("--run/--no-run", default=True, help="Run the commands that write reports."),
    click.option("--attest", is_flag=True, help="Attach the verdicts to the image."),
    click.option("--key", "keys", multiple=True, metavar="KEY", help="The key to sign them with."),
    password_option,
    image_option,
)


def gate_options(command: F) -> F:
    """Add the options; the command gets one argument, `flags`, in place of them."""

    @wraps(command)
    def called(names: tuple[str, ...], as_json: bool, **values: Any) -> Any:
        rules = {name: values.pop(name) for name in _RULES}
        of_kind = {kind: values.pop(kind) for kind in _REPORTS}
        values["form"] = "json" if as_json else values["form"]
        reports = values.pop("report")
        flags = GateFlags(rules=rules, of_kind=of_kind, reports=reports, **values)
        return command(names=names, flags=flags)

    for option in reversed(_OPTIONS):
        called = option(called)
    return cast(F, called)
